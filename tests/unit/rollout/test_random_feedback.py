"""The ablation: an episode is told what was said of a wrong program of another problem (RLEF, sec. 3)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from rlef_lightning.errors import ConfigError
from rlef_lightning.rollout import Collection, Pace, PlaySettings
from rlef_lightning.rollout.collector import donors_of, with_donors

from .doubles import ScriptedEngine, ScriptedExecutor, always, dialogues, problem, program
from .playing import collect, collector_of, run

NAMES = tuple(f"p{i}" for i in range(5))
RANDOM = PlaySettings(feedback="random", samples_per_problem=6)
WRONG = always(NAMES, program("wrong"))


def told(collection: Collection) -> list[tuple[str, set[str]]]:
    """Of each feedback: whose episode it is in, and whose inputs it shows."""
    return [
        (episode.problem_id, set(re.findall(r"input-of-(\w+)", turn.feedback)))
        for episode in collection.episodes
        for turn in episode.turns
        if turn.feedback is not None
    ]


def test_feedback_is_that_of_one_other_problem() -> None:
    pairs = told(collect(ScriptedEngine(dialogues(WRONG)), NAMES, settings=RANDOM))
    assert len(pairs) == 5 * 6 * 2
    assert all(len(shown) == 1 and own not in shown for own, shown in pairs)
    # 12 draws of 4 others for each: every other problem comes up for somebody, and not one for all.
    assert {name for _, shown in pairs for name in shown} == set(NAMES)


def test_true_feedback_is_ones_own() -> None:
    settings = PlaySettings(samples_per_problem=2)
    pairs = told(collect(ScriptedEngine(dialogues(WRONG)), NAMES, settings=settings))
    assert len(pairs) == 5 * 2 * 2
    assert all(shown == {own} for own, shown in pairs)


def test_no_code_gets_somebody_elses_feedback_too() -> None:
    script = dialogues(WRONG | {"p0": ["No idea.", program("right")]})
    pairs = told(
        collect(ScriptedEngine(script), NAMES, settings=PlaySettings(feedback="random", turn_limit=2))
    )
    own = [shown for name, shown in pairs if name == "p0"]
    # p0's donor is "no code", whose text shows no input; the other four texts show their own.
    assert len(own) == 1
    assert own[0] < {"p1", "p2", "p3", "p4"}
    assert len(own[0]) == 1


def test_a_right_program_is_told_nothing_and_gives_nothing() -> None:
    script = dialogues(WRONG | {"p4": [program("right")]})
    collection = collect(ScriptedEngine(script), NAMES, settings=RANDOM)
    pairs = told(collection)
    assert {name for name, _ in pairs} == {"p0", "p1", "p2", "p3"}
    assert not any("p4" in shown for _, shown in pairs)
    assert all(episode.solved is (episode.problem_id == "p4") for episode in collection.episodes)


def test_donors_are_one_response_of_each_problem_drawn_apart() -> None:
    engine = ScriptedEngine(dialogues(WRONG))
    settings = PlaySettings(feedback="random", turn_limit=2)
    collection = collect(engine, NAMES, settings=settings)
    assert len(engine.requests) == 5 + 5 * 2
    donors = {seed for _, _, seed in engine.requests[:5]}
    assert not donors & {seed for _, _, seed in engine.requests[5:]}
    assert len(collection.episodes) == 5


def test_the_same_seed_gives_the_same_feedback() -> None:
    def feedback(seed: int) -> list[tuple[str, set[str]]]:
        return told(collect(ScriptedEngine(dialogues(WRONG)), NAMES, settings=RANDOM, seed=seed))

    assert feedback(1) == feedback(1)
    assert feedback(1) != feedback(2)


@pytest.mark.parametrize("failing", [[], ["p2"]])
def test_too_few_wrong_programs_are_a_config_error(failing: list[str]) -> None:
    script = dialogues(always(NAMES, program("right")) | always(failing, program("wrong")))
    with pytest.raises(ConfigError, match=rf"wrong programs of at least 2 problems, found {len(failing)}: "):
        collect(ScriptedEngine(script), NAMES, settings=RANDOM)


def test_dropped_donors_count_against_the_share() -> None:
    from rlef_lightning.errors import ExecutorError

    script = dialogues(WRONG | {"p0": [program("break")]})
    with pytest.raises(ExecutorError, match="1 of 5"):
        collect(ScriptedEngine(script), NAMES, settings=RANDOM, pace=Pace(max_dropped_share=0.1))


def test_donors_that_are_lost_are_counted_apart() -> None:
    script = dialogues(WRONG | {"p0": [program("break")]})
    pace = Pace(max_dropped_share=0.5)
    engine = ScriptedEngine(script)
    donors = collect(engine, NAMES, settings=donors_of(RANDOM), pace=pace)
    assert (len(donors.episodes), dict(donors.dropped)) == (4, {"executor": 1})
    whole = collect(ScriptedEngine(dialogues(WRONG)), NAMES, settings=RANDOM)
    assert with_donors(whole, donors) == replace(whole, dropped=Counter({"donor_executor": 1}))


def test_random_feedback_needs_donors() -> None:
    collector = collector_of(ScriptedEngine(dialogues(WRONG)), ScriptedExecutor())
    with pytest.raises(ConfigError, match="at least 2 problems, found 0"):
        run(collector.collect([problem(name) for name in NAMES], RANDOM, 0))
