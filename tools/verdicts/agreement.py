"""Is a verdict the same every time, and the right one, on every backend, idle and busy?

    python -m tools.verdicts.agreement --data ../shared/data [--repeats 20] [--load 4] [--json]

The programs are those of the report (python -m tools.verdicts), each so many-th of each file; of HumanEval+
and MBPP+ with the base inputs and one plus input.

A sample of labelled programs, and one program for each verdict, are judged on all their tests (at most
--tests of them), --repeats times on each backend that is installed, and as often beside --load processes
that never rest. Every test of a program must have the same verdict each time, and the first failure of a
program, or that it has none, must be what its label says: a wrong verdict does not become right by being
repeated. Of wrong programs some of whose tests are left out by --tests, and of the known exceptions of the
data, only the repetition counts. Prints a table, or one JSON object with --json, and lists each test that
had two verdicts or an unexpected one; ends with code 1 when there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlef_lightning.execution import Executor
from rlef_lightning.types import Limits, OutputRule, TestCase, Verdict
from tools.prepare.files import VALUE_CHARS, make_executor, run_tool
from tools.verdicts.cases import AT_ONCE, WALL_S, Case
from tools.verdicts.suites import FILES, suites

BACKENDS = {"Subprocess": "", "Nsjail": "nsjail", "Bubblewrap": "bwrap", "Firejail": "firejail"}
"""Class names without their ending, and the program that each needs."""
PLUS_TESTS = 1
_ONE_OF_EACH = {
    Verdict.ACCEPTED: "print(7)",
    Verdict.WRONG_ANSWER: "print(8)",
    Verdict.RUNTIME_ERROR: "print(7)\nraise SystemExit(3)",
    Verdict.SYNTAX_ERROR: "print(7",
    Verdict.TIME_LIMIT: "while True: pass",
    Verdict.MEMORY_LIMIT: "x = bytearray(1 << 40)",
    Verdict.OUTPUT_LIMIT: "while True: print('7' * 1000)",
}
Key = tuple[str, int]
"""A program and the number of one of its tests."""


def one_of_each() -> list[Case]:
    """A program for each verdict; quick limits."""
    limits = Limits(cpu_s=1.0, memory_bytes=256 << 20)
    test = TestCase(stdin="", expected_stdout="7\n")
    return [
        Case(name=f"for {verdict.value}", code=code, tests=[test], wanted=frozenset({verdict}),
             limits=limits, rule=OutputRule())
        for verdict, code in _ONE_OF_EACH.items()
    ]  # fmt: skip


async def sample(folder: Path, every: int, tests: int, executor: Executor) -> list[Case]:
    """Each so many-th program of the folder's files, right and wrong ones, with its first tests.

    The executor computes the expected values of HumanEval+ and MBPP+.
    """
    files = [path for path in (folder / name for name in FILES) if path.exists()]
    cases = []
    async for suite in suites(files, executor, PLUS_TESTS):
        for good in (True, False):
            some = [case for case in suite.cases if case.good is good][::every]
            cases += [cut(case, tests, excused=case.name in suite.exceptions) for case in some]
    return [*one_of_each(), *cases]


def cut(case: Case, tests: int, *, excused: bool) -> Case:
    """The case with its first tests, and with all the outcomes that may then be seen.

    A wrong program may pass those tests, as the one that it fails can be among the others.
    """
    wanted = frozenset(Verdict) if excused else case.wanted
    if len(case.tests) > tests and not case.good:
        wanted |= {Verdict.ACCEPTED}
    return replace(case, tests=case.tests[:tests], wanted=wanted)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that never rest."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


async def verdicts(executor: Executor, cases: Sequence[Case], at_once: int) -> dict[Key, Verdict]:
    """Of every test of every program, once."""
    free = asyncio.Semaphore(at_once)

    async def one(case: Case) -> dict[Key, Verdict]:
        async with free:
            report = await executor.judge(
                case.code, case.tests, limits=replace(case.limits, wall_s=WALL_S), rule=case.rule,
                interface=case.interface, stop_at_first_failure=False,
            )  # fmt: skip
        return {(case.name, number): result.verdict for number, result in enumerate(report.results)}

    found: dict[Key, Verdict] = {}
    for part in await asyncio.gather(*map(one, cases)):
        found |= part
    return found


def unexpected(cases: Sequence[Case], found: dict[Key, Verdict]) -> Iterator[Key]:
    """Where a program first failed against its label; its last test if it should have failed and did not."""
    for case in cases:
        keys = [(case.name, number) for number in range(len(case.tests))]
        first = next((key for key in keys if found[key] is not Verdict.ACCEPTED), keys[-1])
        if found[first] not in case.wanted:
            yield first


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    cases: list[Case] = []
    seen: dict[Key, Counter[str]] = defaultdict(Counter)
    against: dict[Key, Counter[str]] = defaultdict(Counter)
    rows: list[dict[str, Any]] = []
    for backend in arguments.backends:
        class_path = f"rlef_lightning.execution.{backend}Executor"
        executor = make_executor(class_path, arguments.workers, VALUE_CHARS)
        try:
            await executor.start()
            cases = cases or await sample(arguments.data, arguments.every, arguments.tests, executor)
            for load in (0, arguments.load):
                began = time.monotonic()
                with busy(load):
                    for _ in range(arguments.repeats):
                        found = await verdicts(executor, cases, AT_ONCE * arguments.workers)
                        for key, verdict in found.items():
                            seen[key][verdict.value] += 1
                        for key in unexpected(cases, found):
                            against[key][found[key].value] += 1
                row = {"backend": backend, "load": load, "seconds": round(time.monotonic() - began, 1)}
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
        finally:
            await executor.close()
    return {
        "programs": len(cases),
        "tests": len(seen),
        "repeats": arguments.repeats,
        "runs": sum(counts.total() for counts in seen.values()),
        "verdicts": dict(Counter(verdict for counts in seen.values() for verdict in counts)),
        "differing": listed({key: counts for key, counts in seen.items() if len(counts) > 1}),
        "unexpected": listed(against),
        "backends": rows,
    }


def listed(counts: Mapping[Key, Counter[str]]) -> list[dict[str, Any]]:
    """Tests and how often they had which verdict, for readers."""
    return [
        {"program": name, "test": number, "verdicts": dict(verdicts)}
        for (name, number), verdicts in counts.items()
    ]


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = [
        f"{report['programs']} programs, {report['tests']} tests, {report['runs']} runs, "
        f"{len(report['differing'])} tests with more than one verdict, "
        f"{len(report['unexpected'])} with an unexpected one",
        f"Tests by verdict: {report['verdicts']}",
        "",
        "| backend | busy processes beside | times | s |",
        "|---|---|---|---|",
    ]
    for row in report["backends"]:
        lines.append(f"| {row['backend']} | {row['load']} | {report['repeats']} | {row['seconds']:.0f} |")
    for kind in ("differing", "unexpected"):
        lines += [
            f"- {kind}: {one['program']}, test {one['test']}: {one['verdicts']}" for one in report[kind]
        ]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    installed = [name for name, program in BACKENDS.items() if not program or shutil.which(program)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with the files")
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=installed, help="default: %(default)s"
    )
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--load", type=int, default=4, help="busy processes; default: %(default)s")
    parser.add_argument("--every", type=int, default=10, help="each so many-th program; default: %(default)s")
    parser.add_argument("--tests", type=int, default=6, help="of a program, at most; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    if min(arguments.workers, arguments.repeats, arguments.load, arguments.every, arguments.tests) < 1:
        parser.error("--workers, --repeats, --load, --every and --tests must be at least 1")
    report = asyncio.run(measure(arguments))
    print(json.dumps(report) if arguments.json else table(report))
    sys.exit(1 if report["differing"] or report["unexpected"] else 0)


if __name__ == "__main__":
    run_tool(main)
