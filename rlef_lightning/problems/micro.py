"""seed -> Problems: the micro set, small stdin/stdout problems made by code (see micro_families.py).

The three splits differ in every problem's key (its hidden or stated numbers, words and marks). This
file does not say how a model answers; demonstrations are made by tools/tiny_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rlef_lightning.errors import ConfigError
from rlef_lightning.problems.micro_families import FAMILIES, Draft
from rlef_lightning.problems.source import Split
from rlef_lightning.types import Limits, OutputRule, Problem, TestCase

# 0.05 CPU seconds separate programs that need 3 ms from a loop over 10^8 numbers, which needs 5 s.
MICRO_LIMITS = Limits(cpu_s=0.05, wall_s=10.0, memory_bytes=512 << 20, output_bytes=64 << 10)

# Share of the keys of each split, in percent; a key's split depends on the key alone.
_KEY_SHARES: dict[Split, range] = {
    "train": range(70),
    "validation": range(70, 80),
    "test": range(80, 100),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroTask:
    """A micro problem together with the programs that demonstrations are made of."""

    problem: Problem
    draft: Draft


def micro_tasks(split: Split, count: int, seed: int) -> list[MicroTask]:
    """The first `count` tasks of a split, all different, the same for the same seed.

    Raises:
        ConfigError: the families do not have that many different problems in the split.
    """
    rng = Random(f"micro {seed} {split}")
    names, weights = zip(*((name, weight) for name, (_, weight) in FAMILIES.items()), strict=True)
    tasks: dict[str, MicroTask] = {}
    for _ in range(200 * count + 1000):
        if len(tasks) == count:
            return list(tasks.values())
        name = rng.choices(names, weights)[0]
        draft = FAMILIES[name][0](rng)
        if _split_of(name, draft.key) == split:
            tasks.setdefault(f"{name}/{draft.key}", _task(name, draft))
    raise ConfigError(
        f"the micro set has fewer than {count} different {split} problems (found {len(tasks)}): "
        f"lower its option {split!r}"
    )


def _split_of(family: str, key: str) -> Split:
    slot = Random(f"{family} {key}").randrange(100)
    return next(split for split, slots in _KEY_SHARES.items() if slot in slots)


def _task(family: str, draft: Draft) -> MicroTask:
    def cases(pairs: Sequence[tuple[str, str]]) -> tuple[TestCase, ...]:
        return tuple(TestCase(stdin=f"{given}\n", expected_stdout=f"{wanted}\n") for given, wanted in pairs)

    problem = Problem(
        id=f"{family}/{draft.key}",
        statement=draft.statement,
        public_tests=cases(draft.public),
        private_tests=cases(draft.private),
        limits=MICRO_LIMITS,
        rule=OutputRule(),
        metadata={"family": family},
    )
    return MicroTask(problem=problem, draft=draft)


class MicroProblems:
    """The embedded problem set: eight families, made from a seed, no files.

    Args:
        train: Number of training problems.
        validation: Number of validation problems.
        test: Number of test problems.
        seed: Seed of the numbers, words and marks in the problems.
    """

    def __init__(self, train: int = 4000, validation: int = 100, test: int = 200, seed: int = 0) -> None:
        if min(train, validation, test) < 1:
            raise ConfigError(
                f"MicroProblems needs at least 1 problem a split: {train=}, {validation=}, {test=}"
            )
        self.counts: dict[Split, int] = {"train": train, "validation": validation, "test": test}
        self.seed = seed

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order."""
        return [task.problem for task in micro_tasks(split, self.counts[split], self.seed)]
