"""Suites of functions: HumanEval+, MBPP+, HumanEvalPack and QuixBugs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlef_lightning.execution import Executor
from rlef_lightning.execution.literals import write_literal
from rlef_lightning.types import Interface, Limits, OutputRule, Problem, TestCase, Verdict
from tools.prepare.evalplus import Task, prepare, read_tasks, rule_of
from tools.prepare.files import read_rows
from tools.verdicts.cases import REJECTED, Case, Suite
from tools.verdicts.contests import tests_of
from tools.verdicts.observations import FUNCTION, observe

_ACCEPTED = frozenset({Verdict.ACCEPTED})
_LIMITS = Limits(cpu_s=4.0, wall_s=20.0)
"""Of programs some of which loop: short, as no right one needs a second."""


async def evalplus(
    path: Path, name: str, executor: Executor, max_plus: int | None
) -> tuple[Suite, list[Problem]]:
    """The canonical solutions on base and plus tests, and on asserts where there are; also the problems."""
    tasks = read_tasks(path, max_plus)
    problems, left_out = await prepare(tasks, executor, at_once=8)
    canonical = {task.id: task.canonical for task in tasks}
    cases = [
        _case(problem, problem.id, canonical[problem.id], _ACCEPTED, tests_of(problem))
        for problem in problems
    ]
    asserted = {task.id: _asserted(task) for task in tasks if task.asserts or task.check}
    cases += [case for case, _ in asserted.values()]
    inside = [f"{name} ({kept})" for name, (_, kept) in asserted.items() if kept]
    return Suite(name=name, cases=cases, notes=left_out + _decided_inside(inside)), problems


def _asserted(task: Task) -> tuple[Case, int]:
    """The canonical solution on the values that the data's own asserts expect, not on those it computed."""
    script = task.asserts or f"{task.check}\n\ncheck({task.function})"
    code, expected, inside = observe(task.canonical, f"import math\n{script}")
    return _observing(f"{task.id}, asserts", code, expected, _ACCEPTED, rule_of(task, checked=False)), inside


def _case(
    problem: Problem,
    name: str,
    code: str,
    wanted: frozenset[Verdict],
    tests: Sequence[TestCase],
    limits: Limits | None = None,
) -> Case:
    """A program for a problem, under its own limits unless others are given."""
    return Case(
        name=name, code=code, tests=tests, wanted=wanted, limits=limits or problem.limits, rule=problem.rule,
        interface=problem.interface,
    )  # fmt: skip


def humanevalpack(path: Path, problems: Sequence[Problem]) -> Suite:
    """Right and buggy twins on the base tests of the same task of HumanEval+: the calls of its asserts."""
    by_number = {problem.id.rpartition("/")[2]: problem for problem in problems}
    cases = []
    for row in read_rows(path):
        problem = by_number[row["task_id"].rpartition("/")[2]]
        for kind, wanted in (("canonical_solution", _ACCEPTED), ("buggy_solution", REJECTED)):
            code = row["prompt"] + row[kind]
            cases.append(
                _case(problem, f"{row['task_id']}, {kind}", code, wanted, problem.public_tests, _LIMITS)
            )
    note = "its asserts are not run: their calls are HumanEval+'s base inputs, with values compared outside"
    return Suite(name="HumanEvalPack", cases=cases, notes=[note])


def quixbugs(path: Path) -> Suite:
    """Right and buggy twins; what the asserts see is compared outside where that can be."""
    cases, inside = [], []
    for row in read_rows(path):
        for kind, wanted in (("solution", _ACCEPTED), ("buggy_program", REJECTED)):
            case, kept = _observed(row, kind, wanted)
            cases.append(case)
        if kept:
            inside.append(f"{row['name']} ({kept})")
    return Suite(name="QuixBugs", cases=cases, notes=_decided_inside(inside))


def _decided_inside(names: Sequence[str]) -> list[str]:
    """The note on asserts that an object of the solution could decide; none without such asserts."""
    reason = (
        "asserts that are decided in the program, as they compare with no literal or have a tolerance each"
    )
    return [f"{reason}: {', '.join(names)}"] if names else []


def _observed(row: dict[str, Any], kind: str, wanted: frozenset[Verdict]) -> tuple[Case, int]:
    code, expected, inside = observe(row[kind], row["tests"])
    return _observing(f"{row['name']}, {kind}", code, expected, wanted, OutputRule()), inside


def _observing(
    name: str, code: str, expected: dict[int, Any], wanted: frozenset[Verdict], rule: OutputRule
) -> Case:
    test = TestCase(stdin="()", expected_stdout=write_literal(expected))
    return Case(
        name=name, code=code, tests=[test], wanted=wanted, limits=_LIMITS, rule=rule,
        interface=Interface(function=FUNCTION),
    )  # fmt: skip
