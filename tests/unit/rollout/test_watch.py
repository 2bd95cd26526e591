"""Nothing hangs unseen: episodes, engines and steps that do not end, and a signal in the middle of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter

import pytest

from rlef_lightning.errors import ConfigError, EngineError, ExecutorError, RolloutError
from rlef_lightning.rollout import Pace, PlaySettings, watch
from rlef_lightning.rollout.watch import EngineWatch

from .doubles import Gauge, ScriptedEngine, ScriptedExecutor, always, dialogues, problem, program, text_of
from .playing import collect, collector_of, run

NAMES = tuple(f"p{i}" for i in range(6))
RIGHT = dialogues(always(NAMES, program("right")))
NEVER = 1 << 60
BOTH_MODES = pytest.mark.parametrize("reply_after_steps", [None, 2])


async def for_ever_if_slow(code: str) -> None:
    """Some programs never end."""
    if "slow" in code:
        await asyncio.get_running_loop().create_future()


def test_an_episode_whose_program_never_ends_is_dropped() -> None:
    gauge = Gauge()
    script = dialogues(always(NAMES, program("wrong"), program("right")) | {"p2": [program("right slow")]})
    pace = Pace(max_dropped_share=0.2, max_episode_s=0.3)
    executor = ScriptedExecutor(for_ever_if_slow, gauge)
    collection = collect(ScriptedEngine(script), NAMES, executor=executor, pace=pace)
    assert [episode.problem_id for episode in collection.episodes] == ["p0", "p1", "p3", "p4", "p5"]
    assert collection.dropped == Counter({"time_limit": 1})
    assert gauge.now == 0  # its program has been given up


def test_in_the_repeatable_mode_a_program_that_never_ends_holds_up_all_and_ends_the_run() -> None:
    script = dialogues(always(NAMES, program("wrong"), program("right")) | {"p2": [program("right slow")]})
    pace = Pace(max_dropped_share=0.2, max_episode_s=0.3, reply_after_steps=2)
    with pytest.raises(RolloutError, match="'time_limit': 2"):
        collect(ScriptedEngine(script), NAMES, executor=ScriptedExecutor(for_ever_if_slow), pace=pace)


@BOTH_MODES
def test_an_episode_whose_request_is_never_answered_is_dropped(reply_after_steps: int | None) -> None:
    engine = ScriptedEngine(RIGHT, steps=lambda prompt, seed: NEVER if "Solve p4." in prompt else 1)
    pace = Pace(max_dropped_share=0.2, max_episode_s=0.3, reply_after_steps=reply_after_steps)
    collection = collect(engine, NAMES, pace=pace)
    assert [episode.problem_id for episode in collection.episodes] == ["p0", "p1", "p2", "p3", "p5"]
    assert collection.dropped == Counter({"time_limit": 1})
    assert engine.aborts == 1  # weights can be synced: the engine has nothing left to do


@BOTH_MODES
def test_the_request_of_an_episode_that_is_given_up_takes_no_further_step(
    reply_after_steps: int | None,
) -> None:
    """The others go on: the engine is not to sample for nobody until they end."""

    async def wait(code: str) -> None:
        await asyncio.sleep(0.05)

    def holds_p4(batch: tuple[tuple[tuple[int, ...], int], ...]) -> bool:
        return any("Solve p4." in text_of(prompt) for prompt, _ in batch)

    others = [f"q{i}" for i in range(10)]
    script = dialogues(always([*others, "p4"], program("wrong"), program("wrong"), program("right")))
    engine = ScriptedEngine(script, steps=lambda prompt, seed: NEVER if "Solve p4." in prompt else 1)
    # Ten episodes of four programs each, one after the other: 2 s. p4 is given up in the middle of them.
    pace = Pace(
        max_in_flight=2, max_dropped_share=1.0, max_episode_s=1.0, reply_after_steps=reply_after_steps
    )
    collection = collect(engine, ["p4", *others], pace=pace, executor=ScriptedExecutor(wait))
    assert collection.dropped["time_limit"] >= 1
    assert holds_p4(engine.batches[0])
    assert not holds_p4(engine.batches[-1])


def test_a_collection_that_is_stopped_leaves_no_request_that_was_given_up_before() -> None:
    """The last episode runs out of time, and that is when the run is told to end."""

    class Stopped(Exception):
        pass

    def progress(done: int, total: int) -> None:
        raise Stopped

    engine = ScriptedEngine(RIGHT, steps=lambda prompt, seed: NEVER)
    with pytest.raises(Stopped):
        collect(engine, ["p0"], pace=Pace(max_episode_s=0.1, max_dropped_share=1.0), progress=progress)
    assert engine.aborts == 1


@BOTH_MODES
def test_too_many_episodes_that_never_end_stop_the_run(reply_after_steps: int | None) -> None:
    script = dialogues(always(NAMES, program("right")) | always(["p1", "p3"], program("right slow")))
    pace = Pace(max_dropped_share=0.2, max_episode_s=0.3, reply_after_steps=reply_after_steps)
    match = (
        r"^2 of 6 episodes were dropped \{'time_limit': 2\}, more than data\.pace\.max_dropped_share=0\.2 "
        r"allows; the last reason: an episode has not ended within 0\.3 s \(data\.pace\.max_episode_s\)$"
    )
    with pytest.raises(RolloutError, match=match):
        collect(ScriptedEngine(script), NAMES, executor=ScriptedExecutor(for_ever_if_slow), pace=pace)


@BOTH_MODES
def test_an_engine_that_answers_nothing_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, reply_after_steps: int | None
) -> None:
    # On a busy machine a step, too, may take so long.
    monkeypatch.setattr(watch, "end_process", lambda message: None)
    engine = ScriptedEngine(RIGHT, steps=lambda prompt, seed: NEVER)
    pace = Pace(max_engine_silence_s=0.2, reply_after_steps=reply_after_steps)
    with pytest.raises(
        EngineError, match=r"answered none of 6 requests .*\(data\.pace\.max_engine_silence_s=0\.2\)"
    ):
        collect(engine, NAMES, pace=pace)
    assert engine.aborts == 1


def test_numbers_that_are_not_finite_are_the_engine_s_failure() -> None:
    engine = ScriptedEngine(RIGHT, logprob=lambda prompt, seed: float("nan"))
    with pytest.raises(EngineError, match=r"1 of 6 episodes were dropped \{'not_finite': 1\}"):
        collect(engine, NAMES)


def test_the_most_frequent_reason_names_the_error() -> None:
    script = dialogues(always(NAMES, program("right")) | always(["p1", "p2"], program("break")))
    engine = ScriptedEngine(
        script, logprob=lambda prompt, seed: float("inf") if "Solve p5." in prompt else -0.5
    )
    with pytest.raises(ExecutorError, match="3 of 6"):
        collect(engine, NAMES, pace=Pace(max_dropped_share=0.4))


@BOTH_MODES
def test_a_signal_is_seen_while_no_episode_ends(reply_after_steps: int | None) -> None:
    """Every program runs for ever, and the engine has nothing to do."""

    class Stopped(Exception):
        pass

    def check() -> None:
        raise Stopped

    gauge = Gauge()
    script = dialogues(always(NAMES, program("right slow")))
    executor = ScriptedExecutor(for_ever_if_slow, gauge)
    pace = Pace(reply_after_steps=reply_after_steps)

    async def main() -> None:
        collector = collector_of(ScriptedEngine(script), executor, pace)
        problems = [problem(name) for name in NAMES]
        with pytest.raises(Stopped):
            await collector.collect(problems, PlaySettings(), 0, check=check)

    run(main())
    assert gauge.peak == 6
    assert gauge.now == 0


def test_a_step_that_does_not_return_is_reported_from_outside() -> None:
    class Stuck(ScriptedEngine):
        def step(self) -> None:
            assert released.wait(60)

    released, said = threading.Event(), []

    def give_up(message: str) -> None:
        said.append(message)
        released.set()

    with EngineWatch(Stuck(RIGHT), 0.05, give_up) as watched:
        watched.step()
    (message,) = said
    assert "has not returned within 0.05 s (data.pace.max_engine_silence_s)" in message


def test_a_process_that_hangs_in_a_step_ends_with_an_error() -> None:
    code = (
        "import time\n"
        "from rlef_lightning.rollout.watch import EngineWatch\n"
        "class Stuck:\n"
        "    def step(self): time.sleep(100)\n"
        "with EngineWatch(Stuck(), 0.1) as watch: watch.step()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("rlef: error: a step of the engine with 0 requests has not returned")
    assert "in step" in done.stderr  # where it hangs


def test_quick_steps_are_left_alone() -> None:
    said: list[str] = []
    with EngineWatch(ScriptedEngine(RIGHT), 60.0, said.append) as watched:
        for _ in range(3):
            watched.step()
            watched.check()
    assert said == []


@pytest.mark.parametrize("name", ["max_episode_s", "max_engine_silence_s"])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_limits_are_above_zero(name: str, bad: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {bad:g}; it must be null or more than 0"):
        Pace(**{name: bad})
    assert getattr(Pace(**{name: None}), name) is None


def test_without_limits_nothing_is_watched() -> None:
    pace = Pace(max_episode_s=None, max_engine_silence_s=None)
    assert len(collect(ScriptedEngine(RIGHT), NAMES, pace=pace).episodes) == 6
