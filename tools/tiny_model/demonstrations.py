"""MicroTasks -> dialogues that a half-skilled assistant would hold.

Two kinds: `SKILL` always repairs its program by the feedback, `HABIT` does so only sometimes and
otherwise repeats itself, as instruct models do before RLEF (RLEF, sec. 3: more turns hardly help them).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from rlef_lightning.dialogue import Prompts, extract_code, render_feedback
from rlef_lightning.dialogue.feedback import render_first_message
from rlef_lightning.problems.micro import MicroTask
from rlef_lightning.types import Problem, Report

Judge = Callable[[str, Problem], Awaitable[Report]]
"""A program's report on the public tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How demonstrations answer. Shares are probabilities of one response."""

    repair: float
    """After feedback: the correct program."""
    repeat: float
    """After feedback, where it does not repair: the same program again; else another first guess."""
    slip: float
    """Any response: a block that is never closed, so that no code is found."""
    careless: float
    """A fully specified problem: one number of the program is wrong."""
    cheat: float = 0.0
    """After feedback, where it does not repair: a program that only prints the output expected of the
    public test. Private tests find it out."""
    turn_limit: int = 3


SKILL = Manner(repair=1.0, repeat=0.0, slip=0.02, careless=0.0)
HABIT = Manner(repair=0.18, repeat=0.85, slip=0.03, careless=0.10, cheat=0.06)


async def demonstrate(
    task: MicroTask, manner: Manner, prompts: Prompts, judge: Judge, rng: Random
) -> list[str]:
    """User and assistant texts in turn, ending with the assistant's."""
    problem = task.problem
    texts = [render_first_message(prompts, problem.statement)]
    code = _first_program(task, manner, rng)
    for turn in range(manner.turn_limit):
        slipped = rng.random() < manner.slip
        texts.append(_respond(code, closed=not slipped))
        found = extract_code(texts[-1])
        report = await judge(found, problem) if found is not None else None
        if turn == manner.turn_limit - 1 or (report is not None and report.passed):
            break
        texts.append(render_feedback(prompts, problem.public_tests, report))
        if report is not None:
            code = _next_program(code, task, manner, rng)
    return texts


def _respond(code: str, *, closed: bool) -> str:
    return f"```python\n{code}\n```" if closed else f"```python\n{code}\n"


def _first_program(task: MicroTask, manner: Manner, rng: Random) -> str:
    guesses = task.draft.guesses
    if guesses:
        return guesses[0] if len(guesses) == 1 or rng.random() < 0.85 else rng.choice(guesses[1:])
    return _spoil(task.draft.solution, rng) if rng.random() < manner.careless else task.draft.solution


def _next_program(code: str, task: MicroTask, manner: Manner, rng: Random) -> str:
    if rng.random() < manner.repair:
        return task.draft.solution
    if rng.random() < manner.cheat:
        return f'print("{task.draft.public[0][1]}")'
    return code if rng.random() < manner.repeat else _first_program(task, manner, rng)


def _spoil(code: str, rng: Random) -> str:
    """Replace one digit by another."""
    places = [index for index, character in enumerate(code) if character.isdigit()]
    place = rng.choice(places)
    return code[:place] + rng.choice([d for d in "123456789" if d != code[place]]) + code[place + 1 :]
