"""Many episodes: their order, seeds and number at a time, and what happens to those without a verdict."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.errors import ConfigError, EngineError, ExecutorError
from rlef_lightning.generation import RequestFailed
from rlef_lightning.rollout import Pace, PlaySettings
from rlef_lightning.rollout.play import derive_seed

from .doubles import (
    Gauge,
    ScriptedEngine,
    ScriptedExecutor,
    always,
    dialogues,
    loop_turns,
    problem,
    program,
)
from .playing import collect, collector_of, run

NAMES = tuple(f"p{i}" for i in range(6))
ALL_WRONG = dialogues(always(NAMES, program("wrong")))
MIXED = dialogues({name: [program("wrong")] * (i % 3) + [program("right")] for i, name in enumerate(NAMES)})


class NotingExecutor(ScriptedExecutor):
    """Programs run for random times; notes the order in which they end."""

    def __init__(self, draw: Random) -> None:
        super().__init__(self._run)
        self._turns = loop_turns(lambda: draw.randrange(12))
        self.ended: list[str] = []

    async def _run(self, code: str) -> None:
        await self._turns(code)
        self.ended.append(code)


def test_derive_seed_is_the_same_on_every_machine() -> None:
    # int.from_bytes(blake2b(b"0\x1ftrain\x1f3", digest_size=8).digest(), "big") >> 1
    assert derive_seed(0, "train", 3) == 2081397945330159740


@given(st.lists(st.one_of(st.integers(), st.text(st.characters(exclude_categories=["Cs"]))), max_size=4))
def test_a_seed_fits_a_signed_word(parts: list[object]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


def test_parts_of_a_seed_do_not_run_together() -> None:
    assert (
        len({derive_seed("ab", "c"), derive_seed("a", "bc"), derive_seed("abc"), derive_seed("c", "ab")}) == 4
    )


def test_the_same_seed_asks_for_the_same_tokens() -> None:
    def requests(seed: int) -> list[object]:
        engine = ScriptedEngine(MIXED)
        collect(engine, NAMES, seed=seed, settings=PlaySettings(samples_per_problem=2))
        return list(engine.requests)

    assert requests(3) == requests(3)
    other = [seed for _, _, seed in requests(4)]
    assert not {seed for _, _, seed in requests(3)} & set(other)


def test_each_sample_and_turn_has_a_seed_of_its_own() -> None:
    engine = ScriptedEngine(ALL_WRONG)
    collection = collect(engine, NAMES, settings=PlaySettings(samples_per_problem=4, turn_limit=3))
    assert len({seed for _, _, seed in engine.requests}) == len(engine.requests) == 6 * 4 * 3
    assert len({episode.seed for episode in collection.episodes}) == 6 * 4


def test_a_problem_that_comes_twice_is_sampled_anew() -> None:
    engine = ScriptedEngine(ALL_WRONG)
    settings = PlaySettings(samples_per_problem=2, turn_limit=1)
    collection = collect(engine, ["p0", "p1", "p0"], settings=settings)
    assert [(e.problem_id, e.sample_index) for e in collection.episodes] == [
        ("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1), ("p0", 2), ("p0", 3),
    ]  # fmt: skip
    assert len({seed for _, _, seed in engine.requests}) == 6


def test_a_sample_does_not_depend_on_the_problems_around_it() -> None:
    alone = collect(ScriptedEngine(MIXED), ["p4"]).episodes
    among = collect(ScriptedEngine(MIXED), NAMES).episodes
    assert alone == among[4:5]


def test_episodes_come_in_the_order_of_problems_whatever_order_they_end_in() -> None:
    expected = [(name, sample) for name in NAMES for sample in range(2)]
    finishing_orders = set()
    for schedule in range(10):
        executor = NotingExecutor(Random(schedule))
        # One program to each problem, so that the order of their ends can be read off.
        engine = ScriptedEngine(dialogues({name: [program(f"right {name}")] for name in NAMES}))
        settings = PlaySettings(samples_per_problem=2)
        collection = collect(engine, NAMES, executor=executor, settings=settings)
        assert [(e.problem_id, e.sample_index) for e in collection.episodes] == expected
        finishing_orders.add(tuple(executor.ended))
    assert len(finishing_orders) > 1


@pytest.mark.parametrize("reply_after_steps", [None, 2])
@pytest.mark.parametrize("bound", [1, 3, 100])
def test_no_more_episodes_than_allowed_are_in_flight(bound: int, reply_after_steps: int | None) -> None:
    gauge, draw = Gauge(), Random(5)
    engine = ScriptedEngine(MIXED, gauge=gauge, steps=lambda prompt, seed: 1 + seed % 4)
    executor = ScriptedExecutor(loop_turns(lambda: draw.randrange(5)), gauge)
    pace = Pace(max_in_flight=bound, reply_after_steps=reply_after_steps)
    settings = PlaySettings(samples_per_problem=2)
    collection = collect(engine, NAMES, executor=executor, settings=settings, pace=pace)
    assert len(collection.episodes) == 12
    assert gauge.peak == min(bound, 12)
    assert gauge.now == 0


def test_a_slow_program_holds_up_nobody() -> None:
    """p0's program runs until all the others, of several turns each, are done."""
    done: list[tuple[int, int]] = []

    async def main() -> None:
        others_done = asyncio.Event()

        async def wait(code: str) -> None:
            if code == "right slow":
                await others_done.wait()

        def progress(count: int, total: int) -> None:
            done.append((count, total))
            if count == 5:
                others_done.set()

        answers = always(NAMES, program("wrong"), program("wrong"), program("right"))
        engine = ScriptedEngine(dialogues(answers | {"p0": [program("right slow")]}))
        collector = collector_of(engine, ScriptedExecutor(wait))
        collection = await collector.collect([problem(n) for n in NAMES], PlaySettings(), 0, progress)
        assert [len(episode.turns) for episode in collection.episodes] == [1, 3, 3, 3, 3, 3]

    run(main())
    assert done == [(count, 6) for count in range(1, 7)]


def test_the_engine_works_on_all_that_wait_at_once() -> None:
    engine = ScriptedEngine(ALL_WRONG)
    collect(engine, NAMES)
    assert [len(batch) for batch in engine.batches] == [6, 6, 6]


def test_sampled_tokens_are_counted() -> None:
    collection = collect(ScriptedEngine(MIXED), NAMES)
    turns = [turn for episode in collection.episodes for turn in episode.turns]
    assert len(turns) == 2 * (1 + 2 + 3)
    assert collection.response_tokens == sum(len(turn.completion.logprobs) for turn in turns)


# ---- episodes without a verdict ---------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("reply_after_steps", [None, 2])
def test_a_logprob_that_is_not_finite_drops_the_episode(bad: float, reply_after_steps: int | None) -> None:
    engine = ScriptedEngine(MIXED, logprob=lambda prompt, seed: bad if "Solve p2." in prompt else -0.5)
    executor = ScriptedExecutor()
    pace = Pace(max_dropped_share=1 / 6, reply_after_steps=reply_after_steps)
    collection = collect(engine, NAMES, executor=executor, pace=pace)
    assert [episode.problem_id for episode in collection.episodes] == ["p0", "p1", "p3", "p4", "p5"]
    assert collection.dropped == Counter({"not_finite": 1})


@pytest.mark.parametrize("end", ["abort", "error", "repetition", RequestFailed("given up")], ids=str)
@pytest.mark.parametrize("reply_after_steps", [None, 2])
def test_a_response_that_the_engine_gave_up_drops_the_episode(
    end: str | RequestFailed, reply_after_steps: int | None
) -> None:
    engine = ScriptedEngine(MIXED, ends=lambda prompt: end if "Solve p0." in prompt else None)
    executor = ScriptedExecutor()
    pace = Pace(max_dropped_share=1 / 6, reply_after_steps=reply_after_steps)
    collection = collect(engine, NAMES, executor=executor, pace=pace)
    assert [episode.problem_id for episode in collection.episodes] == ["p1", "p2", "p3", "p4", "p5"]
    assert collection.dropped == Counter({"request_failed": 1})
    # A judgement for each turn and a private one: p3 has one turn, p1 and p4 have two, p2 and p5 three.
    assert len(executor.calls) == 1 + 2 * (2 + 3) + 5
    pace = Pace(max_dropped_share=0.1, reply_after_steps=reply_after_steps)
    with pytest.raises(EngineError, match=r"1 of 6 episodes were dropped \{'request_failed': 1\}"):
        collect(engine, NAMES, pace=pace)


@pytest.mark.parametrize("word", ["break", "late-break"])
@pytest.mark.parametrize("reply_after_steps", [None, 2])
def test_a_failure_of_the_sandbox_drops_the_episode(word: str, reply_after_steps: int | None) -> None:
    script = dialogues(always(NAMES, program("right")) | {"p1": [program("wrong"), program(word)]})
    done: list[int] = []
    collection = collect(
        ScriptedEngine(script),
        NAMES,
        pace=Pace(max_dropped_share=0.2, reply_after_steps=reply_after_steps),
        progress=lambda count, total: done.append(count),
    )
    assert [episode.problem_id for episode in collection.episodes] == ["p0", "p2", "p3", "p4", "p5"]
    assert collection.dropped == Counter({"executor": 1})
    assert done == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("reply_after_steps", [None, 2])
def test_too_many_dropped_episodes_stop_the_run(reply_after_steps: int | None) -> None:
    script = dialogues(always(NAMES, program("right")) | always(["p1", "p3"], program("break")))
    # 2 of 6 are dropped; the limit of 0.25 * 6 = 1.5 holds for the first of them.
    pace = Pace(max_dropped_share=0.25, reply_after_steps=reply_after_steps)
    match = (
        r"^2 of 6 episodes were dropped \{'executor': 2\}, more than data\.pace\.max_dropped_share=0\.25 "
        r"allows; the last reason: the sandbox failed on break$"
    )
    with pytest.raises(ExecutorError, match=match):
        collect(ScriptedEngine(script), NAMES, pace=pace)


def test_both_reasons_count_together() -> None:
    script = dialogues(always(NAMES, program("right")) | {"p1": [program("break")]})
    engine = ScriptedEngine(script, logprob=lambda prompt, seed: math.nan if "Solve p2." in prompt else -0.5)
    with pytest.raises(ExecutorError, match="2 of 6") as failure:
        collect(engine, NAMES, pace=Pace(max_dropped_share=0.3))
    assert "'not_finite': 1" in str(failure.value)
    assert "'executor': 1" in str(failure.value)


# ---- failures of the engine ------------------------------------------------------------------------


async def for_ever(code: str) -> None:
    """A program that never ends by itself."""
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("reply_after_steps", [None, 50])
def test_a_failing_step_ends_everything(reply_after_steps: int | None) -> None:
    """Some programs run for ever and some requests are unanswered when the third step fails."""
    engine = ScriptedEngine(MIXED, steps=lambda prompt, seed: 1 + 9 * (seed % 2), fail_at_step=2)
    gauge = Gauge()
    executor = ScriptedExecutor(for_ever, gauge)
    pace = Pace(reply_after_steps=reply_after_steps)
    with pytest.raises(EngineError, match="the step fails"):
        collect(engine, NAMES, executor=executor, settings=PlaySettings(samples_per_problem=3), pace=pace)
    assert engine.aborts == 1
    assert gauge.peak > 0
    assert gauge.now == 0


@pytest.mark.parametrize("reply_after_steps", [None, 2])
def test_a_refused_request_ends_everything(reply_after_steps: int | None) -> None:
    engine = ScriptedEngine(MIXED, refuse=lambda prompt: "Solve p3." in prompt)
    with pytest.raises(EngineError, match="the request is refused"):
        collect(engine, NAMES, pace=Pace(reply_after_steps=reply_after_steps))
    assert engine.aborts == 1


def test_a_collection_may_follow_a_failed_one() -> None:
    failing = ScriptedEngine(MIXED, fail_at_step=1)
    executor = ScriptedExecutor()

    async def main() -> int:
        problems = [problem(name) for name in NAMES]
        with pytest.raises(EngineError):
            await collector_of(failing, executor).collect(problems, PlaySettings(), 0)
        again = await collector_of(ScriptedEngine(MIXED), executor).collect(problems, PlaySettings(), 0)
        return len(again.episodes)

    assert run(main()) == 6


# ---- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["turn_limit", "samples_per_problem"])
def test_play_settings_start_at_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be at least 1"):
        PlaySettings(**{name: 0})


@pytest.mark.parametrize("name", ["max_in_flight", "reply_after_steps"])
def test_pace_starts_at_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be .*at least 1"):
        Pace(**{name: 0})
