"""The micro set: the same for a seed, apart in its splits, and silent about what feedback must reveal."""

from __future__ import annotations

import re
from random import Random

import pytest

from rlef_lightning.errors import ConfigError
from rlef_lightning.problems import MicroProblems, ProblemSource, Split, micro
from rlef_lightning.problems.micro import MICRO_LIMITS, MicroTask, micro_tasks
from rlef_lightning.problems.micro_families import FAMILIES, Draft

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
COUNTS: dict[Split, int] = {"train": 600, "validation": 120, "test": 200}


@pytest.fixture(scope="module")
def tasks() -> dict[Split, list[MicroTask]]:
    return {split: micro_tasks(split, COUNTS[split], seed=0) for split in SPLITS}


def family_of(task: MicroTask) -> str:
    return task.problem.metadata["family"]


def secret_of(task: MicroTask) -> str | None:
    """What the statement leaves out, read off the key; None where it is no literal text."""
    first, _, rest = task.draft.key.partition(" ")
    return {
        "constant": first.partition("*")[0],
        "greeting": first,
        "operation": rest,
        "separator": first,
        "layout": rest.partition(" ")[0],
    }.get(family_of(task))


def test_the_shares_of_the_families_add_up() -> None:
    assert sum(share for _, share in FAMILIES.values()) == pytest.approx(1.0)


def test_counts(tasks: dict[Split, list[MicroTask]]) -> None:
    assert {split: len(found) for split, found in tasks.items()} == COUNTS
    source = MicroProblems(train=5, validation=4, test=1)
    assert isinstance(source, ProblemSource)
    assert [len(source.problems(split)) for split in SPLITS] == [5, 4, 1]


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_problems(split: Split) -> None:
    problems = MicroProblems(train=30, validation=30, test=30, seed=3).problems(split)
    assert MicroProblems(train=30, validation=30, test=30, seed=3).problems(split) == problems
    assert MicroProblems(train=30, validation=30, test=30, seed=4).problems(split) != problems


def test_more_problems_begin_with_the_fewer() -> None:
    assert micro_tasks("train", 60, 1)[:20] == micro_tasks("train", 20, 1)


def test_ids_are_unique_and_splits_are_apart(tasks: dict[Split, list[MicroTask]]) -> None:
    ids = [task.problem.id for split in SPLITS for task in tasks[split]]
    keys = [(family_of(task), task.draft.key) for split in SPLITS for task in tasks[split]]
    assert len(set(ids)) == len(ids) == sum(COUNTS.values())
    assert len(set(keys)) == len(keys)


def test_splits_stay_apart_under_different_seeds() -> None:
    train = {task.problem.id for task in micro_tasks("train", 600, seed=1)}
    for seed in (1, 2):
        for split in ("validation", "test"):
            assert not train & {task.problem.id for task in micro_tasks(split, 100, seed)}


@pytest.mark.parametrize("split", SPLITS)
def test_every_family_is_in_every_split(split: Split, tasks: dict[Split, list[MicroTask]]) -> None:
    assert {family_of(task) for task in tasks[split]} == set(FAMILIES)


def test_asking_for_too_many_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # A family of 200 different problems, about a fifth of them for the test.
    def few(rng: Random) -> Draft:
        return FAMILIES["arithmetic"][0](Random(rng.randrange(200)))

    monkeypatch.setattr(micro, "FAMILIES", {"few": (few, 1.0)})
    assert len(MicroProblems(test=20).problems("test")) == 20
    with pytest.raises(ConfigError, match=r"fewer than 150 different test .*found \d\d\).*option 'test'"):
        MicroProblems(test=150).problems("test")


def test_splits_share_no_statement_with_its_solution(tasks: dict[Split, list[MicroTask]]) -> None:
    pairs = {
        split: {(task.problem.statement, task.draft.solution) for task in tasks[split]} for split in SPLITS
    }
    assert pairs["train"] & pairs["test"] == set()
    assert pairs["train"] & pairs["validation"] == set()
    assert pairs["validation"] & pairs["test"] == set()


def test_no_statement_reveals_its_secret(tasks: dict[Split, list[MicroTask]]) -> None:
    told = [(task.problem.statement, secret_of(task)) for split in SPLITS for task in tasks[split]]
    secrets = [(statement, secret) for statement, secret in told if secret is not None]
    assert len(secrets) > 400
    assert [pair for pair in secrets if pair[1] in pair[0]] == []


def test_the_first_public_test_does_reveal_it(tasks: dict[Split, list[MicroTask]]) -> None:
    """Constant and greeting: copied from the expected output; the marks are seen in input or output."""
    for task in tasks["train"]:
        secret, test = secret_of(task), task.problem.public_tests[0]
        if family_of(task) in ("constant", "greeting", "layout"):
            assert secret is not None
            assert secret in test.expected_stdout
        if family_of(task) == "separator":
            assert secret is not None
            assert secret in test.stdin


def test_private_tests_are_not_the_public_ones(tasks: dict[Split, list[MicroTask]]) -> None:
    for split in SPLITS:
        for task in tasks[split]:
            public, private = set(task.problem.public_tests), set(task.problem.private_tests)
            assert public
            assert private - public


def test_problems_are_whole(tasks: dict[Split, list[MicroTask]]) -> None:
    for task in tasks["validation"]:
        problem = task.problem
        assert problem.limits == MICRO_LIMITS
        assert problem.id == f"{family_of(task)}/{task.draft.key}"
        for test in (*problem.public_tests, *problem.private_tests):
            assert re.fullmatch(r"[^\n]+\n", test.stdin)
            assert re.fullmatch(r"[^\n]+\n", test.expected_stdout)


@pytest.mark.parametrize("name", FAMILIES)
def test_guesses_are_for_what_is_left_out(name: str) -> None:
    for seed in range(20):
        draft = FAMILIES[name][0](Random(seed))
        assert (draft.guesses == ()) is (name == "arithmetic")
        assert draft.solution not in draft.guesses
        assert draft == FAMILIES[name][0](Random(seed))
