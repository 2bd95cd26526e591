"""One collection by the ranks of a run, as far as one process shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from rlef_lightning.collecting import collect, let_sleep
from rlef_lightning.errors import EngineError, ExecutorError, RolloutError
from rlef_lightning.ranks import Ranks
from rlef_lightning.rollout import Collection, Pace, PlaySettings, Share
from rlef_lightning.rollout.episode_log import Key

from .doubles import ScriptedEngine, ScriptedExecutor, always, dialogues, problem, program
from .playing import collector_of, run

NAMES = tuple(f"p{i}" for i in range(6))
PROBLEMS = [problem(name) for name in NAMES]
RIGHT = dialogues(always(NAMES, program("right")))


class CapableEngine(ScriptedEngine):
    """Fulfils SharedEngine and SleepingEngine; notes in which order it is used."""

    ranks_per_engine = 1
    rank_timeout_s = 60.0

    def __init__(self, script: Any) -> None:
        super().__init__(script)
        self.calls: list[str] = []

    def lead(self, play: Callable[[], Any]) -> Any:
        self.calls.append("lead")
        return play()

    def sleep(self) -> None:
        self.calls.append(f"sleep after {len(self.requests)} requests")


def collected(engine: ScriptedEngine, pace: Pace | None = None) -> Any:
    pace = pace or Pace()

    def play(share: Share | None, elsewhere: frozenset[Key]) -> Any:
        assert share is None  # nobody to share with
        assert not elsewhere
        collector = collector_of(engine, ScriptedExecutor(), pace)
        return run(collector.collect(PROBLEMS, PlaySettings(), 0, share=share))

    return collect(play, Ranks(), engine, PROBLEMS, PlaySettings(), pace)


def test_an_engine_sleeps_when_all_is_played() -> None:
    engine = CapableEngine(RIGHT)
    assert len(collected(engine).episodes) == 6
    assert engine.calls == ["lead", "sleep after 6 requests"]


def test_an_engine_that_can_neither_sleep_nor_share_is_an_engine_too() -> None:
    engine = ScriptedEngine(RIGHT)
    assert [episode.problem_id for episode in collected(engine).episodes] == list(NAMES)
    let_sleep(engine)


def test_failures_stay_what_they_are() -> None:
    engine = ScriptedEngine(RIGHT, fail_at_step=0)
    with pytest.raises(EngineError, match=r"^the step fails$"):
        collected(engine)
    with pytest.raises(ExecutorError, match="more than"):
        collected(ScriptedEngine(dialogues(always(NAMES, program("break")))), Pace(max_dropped_share=0.5))


@pytest.mark.parametrize(
    ("dropped", "error"),
    [
        ({"executor": 2, "not_finite": 1}, ExecutorError),
        ({"not_finite": 3}, EngineError),
        ({"time_limit": 3}, RolloutError),
    ],
)
def test_drops_that_are_too_many_together_are_the_error_of_the_most_frequent_reason(
    dropped: dict[str, int], error: type[Exception]
) -> None:
    def play(share: Share | None, elsewhere: frozenset[Key]) -> Collection:
        return Collection(episodes=(), problems=6, dropped=Counter(dropped), seconds=0.0)

    with pytest.raises(error, match=r"^3 of 6 episodes were dropped"):
        collect(play, Ranks(), ScriptedEngine(RIGHT), PROBLEMS, PlaySettings(), Pace(max_dropped_share=0.1))
