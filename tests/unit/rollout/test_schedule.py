"""The reproducible mode: what the engine sees does not depend on how long programs take."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_lightning.rollout import Collection, Pace, PlaySettings

from .doubles import Request, ScriptedEngine, ScriptedExecutor, dialogues, loop_turns, program
from .playing import collect

NAMES = tuple(f"p{i}" for i in range(7))
# Solved in turn 1, 2, 3, never, ...: waits of every kind overlap.
SCRIPT = dialogues(
    {name: [program("wrong")] * (i % 4) + [program("right")] for i, name in enumerate(NAMES)}
    | {"p5": ["No idea.", program("half")]}
)
STEPS = (1, 3, 2, 5)


def play(delays: list[int], reply_after_steps: int | None) -> tuple[Collection, list[tuple[Request, ...]]]:
    """With programs that take these many turns of the event loop, one after the other, round and round."""
    count = iter(range(10_000))
    executor = ScriptedExecutor(loop_turns(lambda: delays[next(count) % len(delays)]))
    engine = ScriptedEngine(SCRIPT, steps=lambda prompt, seed: STEPS[seed % 4])
    pace = Pace(reply_after_steps=reply_after_steps, max_in_flight=4)
    collection = collect(
        engine, NAMES, executor=executor, settings=PlaySettings(samples_per_problem=2), pace=pace
    )
    return collection, engine.batches


@pytest.mark.parametrize("reply_after_steps", [1, 2, 8])
@settings(max_examples=20)
@given(delays=st.lists(st.integers(0, 25), min_size=1, max_size=12))
def test_the_engine_sees_the_same_batches_however_long_programs_take(
    reply_after_steps: int, delays: list[int]
) -> None:
    quick, quick_batches = play([0], reply_after_steps)
    collection, batches = play(delays, reply_after_steps)
    assert batches == quick_batches
    assert collection.episodes == quick.episodes
    assert len(batches) > 10
    assert max(map(len, batches)) == 4


def test_without_it_the_batches_do_depend_on_them() -> None:
    """That the test above can fail: the same delays make a difference in the other mode."""
    draw = Random(1)
    seen = {tuple(play([draw.randrange(25) for _ in range(12)], None)[1]) for _ in range(5)}
    assert len(seen) > 1


def test_either_mode_gives_the_same_episodes() -> None:
    """Seeds belong to requests, so an engine without rounding differences says the same."""
    assert play([0], None)[0].episodes == play([7, 0, 3], 3)[0].episodes


def test_a_reply_is_handed_on_so_many_steps_after_the_program_was_handed_in() -> None:
    """By hand: p0 is answered in step 0, p1 needs 10 steps; p0's program, handed in after step 0, i.e. at
    step count 1, is due at count 1 + 3 = 4: it is missing from steps 1, 2 and 3 and is back in step 4."""
    script = dialogues({"p0": [program("wrong"), program("right")], "p1": [program("right")]})
    engine = ScriptedEngine(script, steps=lambda prompt, seed: 10 if "Solve p1." in prompt else 1)
    collect(engine, ["p0", "p1"], pace=Pace(reply_after_steps=3))
    assert [len(batch) for batch in engine.batches] == [2, 1, 1, 1, 2, 1, 1, 1, 1, 1]


def test_an_idle_engine_does_not_step_while_it_waits() -> None:
    """Nothing else is sampled while the only program runs: two turns are two steps, not 2 + 8."""
    engine = ScriptedEngine(dialogues({"p0": [program("wrong"), program("right")]}))
    collect(engine, ["p0"], pace=Pace(reply_after_steps=8))
    assert [len(batch) for batch in engine.batches] == [1, 1]
