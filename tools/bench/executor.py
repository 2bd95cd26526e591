"""How fast an executor is: python tools/bench/executor.py --backend subprocess --workers 2 --json.

Prints one JSON object last. Every ratio is the median of those of several rounds, each of which measures
both of its sides, because the speed of a machine that does other things drifts.

    runs_per_s                 judged runs of a two-line program, `workers` at a time, in full queues
    subprocess_runs_per_s      the same program as `python -c`, as many at a time
    base_subprocess_runs_per_s the same with the interpreter that the virtual environment was made of, which
                               starts faster than the environment's; outside of one, it is the same one
    system_subprocess_runs_per_s  the same with /usr/bin/python3; null where there is none
    isolated_runs_per_s        the same as `python -I -S -c`, the fastest start of an interpreter
    nsjail_per_run_runs_per_s  the same as `nsjail ... python -c`; null without nsjail on PATH
    overhead_ms_median         one `judge` of one test, nothing else under way, minus the program's own time
    fork_ms_median             os.fork + immediate end + wait, in a process that is a copy of the warm runner
    vs_...                     runs_per_s over each of these rates: `vs_subprocess`, `vs_base_subprocess`,
                               `vs_system_subprocess`, `vs_isolated`, `vs_nsjail_per_run`
    growth                     runs per second with 4 times as many runs queued, over those with 1 times

The program's own time is what it measures itself between its first statement and its last: the fork, the
walls, compiling, the end of the interpreter and everything between trainer and runner are overhead. The
laxer `beyond_cpu_ms_median` takes away the CPU time that the kernel counts for the program's process, in
which copying the pages of the fork is included.

With a file of CodeContests, all tests of all shipped Python 3 solutions are judged: `tests_per_s`, and the
share of wall time x workers that the kernel counts as the programs' CPU time (`program_share`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: its folder is on the path, the project's root is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rlef_lightning.execution import Executor
from rlef_lightning.types import CODECONTESTS_RULE, Limits, OutputRule, Report, TestCase
from tools.bench import plain
from tools.bench.backends import add_arguments, started
from tools.verdicts.contests import LOST_A_LINE

DATA = Path(__file__).parents[3] / "shared" / "data" / "codecontests_dev.parquet"
PYTHON3 = 3
TESTS_PER_SOLUTION = 8
LIMITS, RULE = Limits(), OutputRule()

SMALL = "numbers = map(int, input().split())\nprint(sum(numbers))"
SMALL_TEST = TestCase(stdin="3 4\n", expected_stdout="7\n")
TIMED = """import sys, time; start = time.perf_counter()
print(sum(number * number % 7 for number in range(20_000)), flush=True)
print(time.perf_counter() - start, file=sys.stderr)"""
TIMED_TEST = TestCase(stdin="", expected_stdout=f"{sum(number * number % 7 for number in range(20_000))}\n")
FORKS = """import os, statistics, time
def fork():
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - start
print(statistics.median(fork() for _ in range(100)))"""


async def judged(executor: Executor, code: str, tests: Sequence[TestCase]) -> Report:
    """All tests at once."""
    return await executor.judge(code, tests, limits=LIMITS, rule=RULE, stop_at_first_failure=False)


async def warm_runs_per_s(executor: Executor, runs: int) -> float:
    """Solutions of eight tests, all of them queued at once; raises AssertionError on a wrong verdict."""
    tests = [SMALL_TEST] * TESTS_PER_SOLUTION
    solutions = -(-runs // TESTS_PER_SOLUTION)
    start = time.perf_counter()
    reports = await asyncio.gather(*(judged(executor, SMALL, tests) for _ in range(solutions)))
    wall_s = time.perf_counter() - start
    assert all(report.passed for report in reports)
    return solutions * TESTS_PER_SOLUTION / wall_s


async def single_runs(executor: Executor, runs: int) -> dict[str, float]:
    """One run at a time: the medians of its wall time, of the overhead in both senses, in ms."""
    walls, overheads, beyond = [], [], []
    for _ in range(runs):
        start = time.perf_counter()
        (result,) = (await judged(executor, TIMED, [TIMED_TEST])).results
        wall_s = time.perf_counter() - start
        assert result.passed, result
        walls.append(wall_s)
        overheads.append(wall_s - float(result.stderr))
        beyond.append(wall_s - result.cpu_s)
    named = {"judge_ms": walls, "overhead_ms": overheads, "beyond_cpu_ms": beyond}
    return {name: 1000 * statistics.median(values) for name, values in named.items()}


async def fork_ms(executor: Executor) -> float:
    """A bare fork in a judged program: its process is the runner's copy, with the same modules loaded."""
    (result,) = (await judged(executor, FORKS, [TestCase(stdin="", expected_stdout="")])).results
    return 1000 * float(result.stdout)


async def one_round(executor: Executor, workers: int, runs: int) -> dict[str, float]:
    """Everything once; one side of a ratio before and after the other, so that drift cancels out."""
    fork = await fork_ms(executor)
    found = await single_runs(executor, max(1, runs // 4))
    found["fork_ms"] = (fork + await fork_ms(executor)) / 2
    rate = await warm_runs_per_s(executor, runs)
    found["runs_per_s_at_4x"] = await warm_runs_per_s(executor, 4 * runs)
    found["runs_per_s"] = (rate + await warm_runs_per_s(executor, runs)) / 2
    system = plain.system_python()
    commands = {
        "subprocess_runs_per_s": plain.python_command(SMALL),
        "base_subprocess_runs_per_s": plain.python_command(SMALL, python=plain.base_python()),
        "system_subprocess_runs_per_s": system and plain.python_command(SMALL, python=system),
        "isolated_runs_per_s": plain.python_command(SMALL, "-I", "-S"),
        "nsjail_per_run_runs_per_s": plain.nsjail_command(SMALL),
    }
    stdin, expected = SMALL_TEST.stdin.encode(), SMALL_TEST.expected_stdout.encode()
    for name, command in commands.items():
        if command:
            found[name] = await asyncio.to_thread(
                plain.runs_per_s, command, stdin, expected, runs=max(1, runs // 4), at_once=workers
            )
    return found


def summarise(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians over the rounds, and medians of the ratios within each round."""

    def median(name: str) -> float | None:
        return round(statistics.median(one[name] for one in rounds), 3) if name in rounds[0] else None

    def ratio(over: str, under: str) -> float | None:
        if under not in rounds[0]:
            return None
        return round(statistics.median(one[over] / one[under] for one in rounds), 3)

    rates = ("runs_per_s", "subprocess_runs_per_s", "base_subprocess_runs_per_s",
             "system_subprocess_runs_per_s", "isolated_runs_per_s", "nsjail_per_run_runs_per_s")  # fmt: skip
    times = ("overhead_ms", "beyond_cpu_ms", "judge_ms", "fork_ms")
    return {
        **{name: median(name) for name in rates},
        **{f"{name}_median": median(name) for name in times},
        "vs_subprocess": ratio("runs_per_s", "subprocess_runs_per_s"),
        "vs_base_subprocess": ratio("runs_per_s", "base_subprocess_runs_per_s"),
        "vs_system_subprocess": ratio("runs_per_s", "system_subprocess_runs_per_s"),
        "vs_isolated": ratio("runs_per_s", "isolated_runs_per_s"),
        "vs_nsjail_per_run": ratio("runs_per_s", "nsjail_per_run_runs_per_s"),
        "overhead_over_fork": ratio("overhead_ms", "fork_ms"),
        "growth": ratio("runs_per_s_at_4x", "runs_per_s"),
    }


def shipped_solutions(path: Path, problems: int | None) -> list[tuple[str, list[TestCase]]]:
    """Accepted Python 3 programs of the file's first problems, with all sound public and private tests."""
    import pyarrow.parquet as pq

    columns = ["name", "public_tests", "private_tests", "solutions"]
    found = []
    for row in pq.read_table(path, columns=columns).slice(0, problems).to_pylist():
        pairs = [
            pair
            for kind in ("public_tests", "private_tests")
            for pair in zip(row[kind]["input"], row[kind]["output"], strict=True)
        ]
        tests = [
            TestCase(stdin=stdin, expected_stdout=output)
            for stdin, output in pairs
            if (row["name"], stdin) not in LOST_A_LINE
        ]
        solutions = zip(row["solutions"]["language"], row["solutions"]["solution"], strict=True)
        found += [(code, tests) for language, code in solutions if language == PYTHON3]
    return found


async def judge_contests(
    executor: Executor, solutions: Sequence[tuple[str, list[TestCase]]], workers: int
) -> dict[str, Any]:
    """All solutions queued at once."""
    start = time.perf_counter()
    reports = await asyncio.gather(
        *(
            executor.judge(code, tests, limits=LIMITS, rule=CODECONTESTS_RULE, stop_at_first_failure=False)
            for code, tests in solutions
        )
    )
    wall_s = time.perf_counter() - start
    results = [result for report in reports for result in report.results]
    cpu_s = sum(result.cpu_s for result in results)
    return {
        "tests": len(results),
        "not_accepted": sum(not result.passed for result in results),
        "tests_per_s": round(len(results) / wall_s, 1),
        "program_cpu_ms_mean": round(1000 * cpu_s / len(results), 3),
        "program_share": round(cpu_s / (wall_s * workers), 4),
    }


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole benchmark; a first round warms up and is not counted."""
    executor = await started(arguments.backend, arguments.workers)
    try:
        await one_round(executor, arguments.workers, min(arguments.runs, 40))
        rounds = []
        for number in range(arguments.rounds):
            rounds.append(await one_round(executor, arguments.workers, arguments.runs))
            if not arguments.json:
                print(f"round {number}: {json.dumps(summarise(rounds[-1:]))}", flush=True)
        contests = None
        if arguments.data.exists():
            solutions = shipped_solutions(arguments.data, arguments.problems)
            contests = await judge_contests(executor, solutions, arguments.workers)
    finally:
        await executor.close()
    machine = {"cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2)}
    asked = {name: getattr(arguments, name) for name in ("backend", "workers", "rounds", "runs")}
    return {**asked, **machine, **summarise(rounds), "codecontests": contests}


def parse_arguments() -> argparse.Namespace:
    """The command line; a --data that is named but not there is an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=9, help="each measures everything once")
    parser.add_argument("--runs", type=int, default=200, help="judged runs of a round at the shorter queue")
    parser.add_argument("--data", type=Path, help="a CodeContests parquet file (default: the one in shared)")
    parser.add_argument("--problems", type=int, help="judge the first so many of the file (default: all)")
    arguments = parser.parse_args()
    if min(arguments.workers, arguments.rounds, arguments.runs) < 1:
        parser.error("--workers, --rounds and --runs must be at least 1")
    if arguments.data is not None and not arguments.data.exists():
        parser.error(f"--data {arguments.data} does not exist")
    arguments.data = arguments.data or DATA
    return arguments


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(parse_arguments()))))
