"""HumanEval+ or MBPP+ -> problems: python -m tools.prepare.evalplus HumanEvalPlus.jsonl.gz humaneval.jsonl

Reads a release file of EvalPlus (evalplus/humanevalplus_release, evalplus/mbppplus_release) and writes JSON
lines for rlef_lightning.problems.JsonLines, with functions as the interface. Base inputs become the public
tests: they are those of the original data sets, and MBPP+ shows them in the statement (RLEF, sec. 3). Plus
inputs become the private ones, which with the public ones give the score. Expected values are those of the
canonical solution, run in the sandbox. Inputs for which it breaks a limit there (a few make values of many
megabytes) are left out, and so are tasks without any input left; both are named.
"""

from __future__ import annotations

import argparse
import asyncio
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlef_lightning.errors import DataError
from rlef_lightning.execution import Executor
from rlef_lightning.execution.literals import read_literal, write_literal
from rlef_lightning.problems import write_json_lines
from rlef_lightning.types import Interface, Limits, OutputRule, Problem, TestCase
from tools.prepare.argument_types import calls_in, typed
from tools.prepare.files import DEFAULT_EXECUTOR, VALUE_CHARS, field, make_executor, read_rows, run_tool
from tools.prepare.oracles import FOUND_OR_NOT, checker_for

AT_ONCE = 100
"""Inputs of one run of a canonical solution."""
_LIMITS = Limits(cpu_s=20.0, wall_s=120.0)
_ALL_VALUES = "\n\ndef values_of_all_(inputs):\n    return [{call} for arguments in inputs]\n"


Input = tuple[Any, ...]
"""The arguments of one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row of the data, its inputs with Python's types."""

    id: str
    function: str
    prompt: str
    canonical: str
    """The whole program of the canonical solution."""
    asserts: str
    """MBPP+: the base tests as the statement shows them."""
    check: str
    """HumanEval+: the test script of the original data, a function `check(candidate)`."""
    tolerance: float
    base: list[Input]
    plus: list[Input]


def read_tasks(path: Path, max_plus: int | None = None) -> list[Task]:
    """The tasks of a file with the first `max_plus` plus inputs of each; raises DataError."""
    return [_task(row, f"{path}:{number}", max_plus) for number, row in enumerate(read_rows(path), start=1)]


def _task(row: dict[str, Any], where: str, max_plus: int | None) -> Task:
    names = ("task_id", "entry_point", "prompt", "canonical_solution", "base_input", "plus_input", "atol")
    task_id, function, prompt, solution, base, plus, atol = (field(row, name, where) for name in names)
    asserts = row.get("assertion", "")
    calls = list(calls_in(asserts, function))
    plus = list(plus)[:max_plus]  # without any it is an empty object
    return Task(
        id=task_id, function=function, prompt=prompt, canonical=prompt + solution, asserts=asserts.strip(),
        check=row.get("test", ""), tolerance=float(atol), base=typed(base, base, calls),
        plus=typed(plus, base, calls),
    )  # fmt: skip


async def problem_of(task: Task, executor: Executor) -> Problem:
    """The task with its expected values; raises DataError when its canonical solution gives none at all."""
    public, private = await tests_of(task, task.base, executor), await tests_of(task, task.plus, executor)
    if not public:
        raise DataError("the canonical solution fails on every base input")
    return Problem(
        id=task.id,
        statement=statement_of(task),
        public_tests=public,
        private_tests=private or public,
        rule=rule_of(task),
        interface=Interface(function=task.function),
        metadata={"source": "mbpp+" if task.id.startswith("Mbpp/") else "humaneval+"},
    )


def rule_of(task: Task, checked: bool = True) -> OutputRule:
    """As EvalPlus compares: equal, or floats within 1e-6 (or the task's tolerance), or a relative 1e-7."""
    return OutputRule(
        absolute_tolerance=task.tolerance or 1e-6,
        relative_tolerance=1e-7,
        checker=checker_for(task.id, task.function, task.tolerance) if checked else "",
    )


async def tests_of(task: Task, inputs: Sequence[Input], executor: Executor) -> tuple[TestCase, ...]:
    """One test for each input for which the canonical solution gives a value."""
    tests: list[TestCase] = []
    pending = [inputs[start : start + AT_ONCE] for start in range(0, len(inputs), AT_ONCE)]
    while pending:
        some = pending.pop(0)
        values = await _values(task, some, executor)
        if values is not None:
            tests += map(_test, some, values)
        elif len(some) > 1:  # find out for which
            middle = len(some) // 2
            pending[:0] = [some[:middle], some[middle:]]
    return tuple(tests)


def _test(arguments: Input, value: Any) -> TestCase:
    return TestCase(stdin=write_literal(arguments), expected_stdout=write_literal(value))


async def _values(task: Task, inputs: Sequence[Input], executor: Executor) -> list[Any] | None:
    """The canonical solution's values, all in one run; None when it fails on any of the inputs."""
    call = f"{task.function}(*arguments)" + (" is not None" if task.function in FOUND_OR_NOT else "")
    test = TestCase(stdin=write_literal((list(inputs),)), expected_stdout="None")
    report = await executor.judge(
        task.canonical + _ALL_VALUES.format(call=call), [test], limits=_LIMITS, rule=OutputRule(),
        stop_at_first_failure=True, interface=Interface(function="values_of_all_"),
    )  # fmt: skip
    try:
        values = read_literal(report.results[0].stdout)
    except ValueError:
        return None
    return values if isinstance(values, list) else None


def statement_of(task: Task) -> str:
    """HumanEval+: the header and docstring to complete. MBPP+: the description and the base tests."""
    if not task.id.startswith("Mbpp/"):
        return (
            "Complete this Python function. Give the whole function, with all imports that it needs.\n\n"
            f"```python\n{task.prompt.strip()}\n```"
        )
    description = "\n".join(_description(task.prompt))
    return f"{description}\n\nThe function `{task.function}` must pass these tests:\n\n{task.asserts}"


def _description(prompt: str) -> Iterator[str]:
    """The lines of the prompt's docstring before its assert."""
    for line in textwrap.dedent(prompt.strip().strip('"')).strip().splitlines():
        if line.startswith("assert "):
            return
        yield line


async def prepare(tasks: Iterable[Task], executor: Executor, at_once: int) -> tuple[list[Problem], list[str]]:
    """(problems in order, what was left out and why)."""
    free = asyncio.Semaphore(at_once)
    left_out: list[str] = []

    async def one(task: Task) -> Problem | None:
        async with free:
            try:
                problem = await problem_of(task, executor)
            except (DataError, ValueError) as error:
                left_out.append(f"{task.id}: {error}")
                return None
        missing = len(task.base) + len(task.plus) - len(problem.public_tests)
        missing -= len(problem.private_tests) if task.plus else 0
        if missing:
            left_out.append(f"{task.id}: {missing} inputs on which the canonical solution breaks a limit")
        return problem

    done = await asyncio.gather(*map(one, tasks))
    return [problem for problem in done if problem is not None], sorted(left_out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="HumanEvalPlus.jsonl.gz or MbppPlus.jsonl.gz")
    parser.add_argument("target", type=Path, help="the .jsonl or .jsonl.gz file to write")
    parser.add_argument("--max-private-tests", type=int, help="the first so many of each task; default: all")
    parser.add_argument("--executor-class", default=DEFAULT_EXECUTOR, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    tasks = read_tasks(arguments.source, arguments.max_private_tests)
    executor = make_executor(arguments.executor_class, arguments.workers, VALUE_CHARS)
    problems, left_out = asyncio.run(_prepare_and_close(tasks, executor, 2 * arguments.workers))
    if not problems:
        raise DataError(f"{arguments.source}: no task could be prepared; first: {left_out[:1]}")
    write_json_lines(arguments.target, problems)
    for reason in left_out:
        print(f"left out: {reason}")
    tests = sum(len(problem.public_tests) + len(problem.private_tests) for problem in problems)
    print(f"{len(problems)} problems with {tests} tests written to {arguments.target}")


async def _prepare_and_close(
    tasks: Sequence[Task], executor: Executor, at_once: int
) -> tuple[list[Problem], list[str]]:
    try:
        return await prepare(tasks, executor, at_once)
    finally:
        await executor.close()


if __name__ == "__main__":
    run_tool(main)
