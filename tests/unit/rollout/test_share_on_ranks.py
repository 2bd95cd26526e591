"""Two ranks with engines of their own play one collection: who is slow plays less."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from rlef_lightning.collecting import collect
from rlef_lightning.datamodule import RolloutDataModule
from rlef_lightning.errors import EngineError, ExecutorError, RankError
from rlef_lightning.generation import VLLMEngine
from rlef_lightning.ranks import Ranks
from rlef_lightning.rollout import Pace, PlaySettings
from tests.two_ranks import on_two_ranks

from .doubles import ScriptedEngine, ScriptedExecutor, dialogues, problem, program
from .playing import collector_of, run

pytestmark = pytest.mark.slow

NAMES = tuple(f"p{i}" for i in range(30))
PROBLEMS = [problem(name) for name in NAMES]
SCRIPT = dialogues({name: [program("wrong")] * (i % 3) + [program("right")] for i, name in enumerate(NAMES)})
SETTINGS = PlaySettings(samples_per_problem=2)
PACE = Pace(max_in_flight=4, max_dropped_share=0.1)


async def slow(code: str) -> None:
    await asyncio.sleep(0.1)  # a program that runs for so long


def play_together(ranks: Ranks, engine: Any, executor: ScriptedExecutor, seed: int = 5) -> tuple[Any, int]:
    """The whole collection, and the number of episodes that this rank played."""
    own: list[int] = []

    def play(share: Any, elsewhere: Any) -> Any:
        assert not elsewhere  # nothing is stored
        part = run(collector_of(engine, executor, PACE).collect(PROBLEMS, SETTINGS, seed, share=share))
        own.append(len(part.episodes))
        return part

    return collect(play, ranks, engine, PROBLEMS, SETTINGS, PACE), own[0]


def share_the_work(rank: int) -> None:
    ranks = Ranks(60.0)
    executor = ScriptedExecutor(slow) if rank else ScriptedExecutor()
    whole, own = play_together(ranks, ScriptedEngine(SCRIPT), executor)
    played = ranks.gather(own)
    assert sum(played) == len(whole.episodes) == 60
    assert played[0] > 2 * played[1] > 0
    # The same episodes, in the same order, as one rank alone would have played.
    alone, count = play_together(Ranks(alone=True), ScriptedEngine(SCRIPT), ScriptedExecutor())
    assert count == 60
    assert alone.episodes == whole.episodes


def test_a_slow_rank_plays_less_and_no_seat_is_lost() -> None:
    on_two_ranks(share_the_work)


def drops_add_up(rank: int) -> None:
    # 4 of 60 on each rank: below the limit of 6 for each alone, above it for both.
    ranks, broken = Ranks(60.0), SettlingExecutor(4)
    with pytest.raises(ExecutorError, match=r"8 of 60 episodes were dropped .*max_dropped_share=0\.1"):
        play_together(ranks, ScriptedEngine(SCRIPT), broken)


class SettlingExecutor(ScriptedExecutor):
    """Its sandbox fails at first; the programs take a moment, so that both ranks get some."""

    def __init__(self, failures: int) -> None:
        super().__init__(self._settle)
        self._failures = failures

    async def _settle(self, code: str) -> None:
        await asyncio.sleep(0.02)
        self._failures -= 1
        if self._failures >= 0:
            raise ExecutorError("the sandbox is not there yet")


def test_drops_of_all_ranks_count_together() -> None:
    on_two_ranks(drops_add_up)


def one_engine_fails(rank: int) -> None:
    ranks = Ranks(60.0)
    engine = ScriptedEngine(SCRIPT, fail_at_step=3 if rank else None)
    executor = ScriptedExecutor(slow)
    error, told = (
        (EngineError, "the step fails") if rank else (RankError, "rank 1 failed: EngineError: the step")
    )
    with pytest.raises(error, match=told):
        play_together(ranks, engine, executor)
    # Nothing more was handed out: most of the 60 episodes were never begun.
    assert len({seed for _, _, seed in engine.requests}) < 40


def test_an_engine_that_fails_ends_the_other_rank_soon() -> None:
    on_two_ranks(one_engine_fails)


def one_program_never_ends(rank: int) -> None:
    """The ratio of the defaults: an episode may last for two thirds of the time that ranks wait."""
    ranks, pace = Ranks(9.0), Pace(max_in_flight=6, max_dropped_share=0.2, max_episode_s=6.0)
    script = dialogues({name: [program(f"right {name}")] for name in NAMES})

    async def hang(code: str) -> None:
        if code == "right p3":
            await asyncio.sleep(3600)

    def play(share: Any, elsewhere: Any) -> Any:
        collector = collector_of(ScriptedEngine(script), ScriptedExecutor(hang), pace)
        return run(collector.collect(PROBLEMS, PlaySettings(), 5, share=share))

    whole = collect(play, ranks, ScriptedEngine(script), PROBLEMS, PlaySettings(), pace)
    assert dict(whole.dropped) == {"time_limit": 1}
    assert len(whole.episodes) == 29


def test_an_episode_that_never_ends_is_dropped_before_others_give_up() -> None:
    on_two_ranks(one_program_never_ends)


def test_defaults_let_the_slowest_episode_be_dropped() -> None:
    data = inspect.signature(RolloutDataModule).parameters["rank_timeout_s"].default
    engine = inspect.signature(VLLMEngine).parameters["rank_timeout_s"].default
    slowest = Pace().max_episode_s
    assert slowest is not None
    assert slowest < min(data, engine)
