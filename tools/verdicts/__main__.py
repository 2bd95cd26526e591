"""Do the executor's verdicts agree with real labels? python -m tools.verdicts --data ../shared/data

Judges every labelled program of the folder: accepted solutions must be accepted, incorrect and buggy ones
rejected, submissions of Kattis packages must get the verdict they were filed under. Prints a table, or with
--json one JSON object; every disagreement is listed. Ends with code 1 when one has no known reason.

Files: codecontests_dev.parquet, HumanEvalPlus.jsonl.gz, MbppPlus.jsonl.gz, humanevalpack.jsonl.gz,
quixbugs_python.jsonl.gz, judged.jsonl.gz; absent ones are named and passed over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlef_lightning.errors import DataError
from tools.prepare.files import DEFAULT_EXECUTOR, VALUE_CHARS, make_executor, run_tool
from tools.verdicts.cases import AT_ONCE, Judged, Suite, judge_suite
from tools.verdicts.suites import FILES, suites


async def judge_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    wanted = [arguments.data / name for name in FILES if not arguments.only or name in arguments.only]
    files, absent = ([path for path in wanted if path.exists() is there] for there in (True, False))
    if not files:
        raise DataError(f"{arguments.data} holds none of: {', '.join(FILES)}; set --data or --only")
    executor = make_executor(arguments.executor_class, arguments.workers, VALUE_CHARS)
    started, rows = time.monotonic(), []
    try:
        await executor.start()
        async for suite in suites(files, executor, arguments.plus_tests or None):
            some = replace(suite, cases=suite.cases[:: arguments.every])
            judged, seconds = await judge_suite(executor, some, AT_ONCE * arguments.workers)
            rows.append(summary(some, judged, seconds, arguments.workers))
            print(f"{suite.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    finally:
        await executor.close()
    return {
        "executor": arguments.executor_class,
        "workers": arguments.workers,
        "plus_tests": arguments.plus_tests,
        "every": arguments.every,
        "seconds": round(time.monotonic() - started, 1),
        "absent": [path.name for path in absent],
        "unexplained": sum(len(row["unexplained"]) for row in rows),
        "suites": rows,
    }


def summary(suite: Suite, judged: Sequence[Judged], seconds: float, workers: int) -> dict[str, Any]:
    """The counts of one suite, and every case whose verdict is not its label."""
    runs, cpu_s = sum(one.runs for one in judged), sum(one.cpu_s for one in judged)
    good, bad = ([one for one in judged if one.case.good is wanted] for wanted in (True, False))
    differing = [one for one in judged if not one.agrees]
    return {
        "suite": suite.name,
        "labelled_right": len(good),
        "accepted_of_them": sum(one.agrees for one in good),
        "labelled_wrong": len(bad),
        "rejected_of_them": sum(one.agrees for one in bad),
        "runs": runs,
        "seconds": round(seconds, 1),
        "runs_per_s": round(runs / seconds, 1) if seconds else 0.0,
        "share_of_own_cpu": round(cpu_s / (seconds * workers), 3) if seconds else 0.0,
        "excused": [described(one) for one in differing if one.excused],
        "unexplained": [described(one) for one in differing if not one.excused],
        "notes": list(suite.notes),
    }


def described(one: Judged) -> dict[str, str]:
    """One disagreement for readers."""
    wanted = "/".join(sorted(one.case.wanted)) if len(one.case.wanted) == 1 else "rejected"
    return {
        "case": one.case.name,
        "label": wanted,
        "verdict": one.verdict,
        "reason": one.excused,
        "detail": one.detail,
    }


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = [
        "| data | right: accepted | wrong: as labelled | runs | s | runs/s | own CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["suites"]:
        lines.append(
            f"| {row['suite']} | {row['accepted_of_them']} of {row['labelled_right']} | "
            f"{row['rejected_of_them']} of {row['labelled_wrong']} | {row['runs']} | {row['seconds']:.0f} | "
            f"{row['runs_per_s']:.0f} | {row['share_of_own_cpu']:.2f} |"
        )
    for kind, title in (("unexplained", "Unexplained"), ("excused", "Known exceptions")):
        found = [one | {"suite": row["suite"]} for row in report["suites"] for one in row[kind]]
        lines += ["", f"{title}: {len(found)}"]
        lines += [f"- {one['suite']}: {one['case']}: {one['label']}, found {one['verdict']}. "
                  f"{one['reason'] or one['detail']}" for one in found]  # fmt: skip
    notes = [f"- {row['suite']}: {note}" for row in report["suites"] for note in row["notes"]]
    absent = [f"- not judged, as the file is absent: {name}" for name in report["absent"]]
    return "\n".join([*lines, "", "Notes", *notes, *absent])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with the files")
    parser.add_argument("--executor-class", default=DEFAULT_EXECUTOR, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    plus = "plus inputs of each task of HumanEval+ and MBPP+; 0: all; default: %(default)s"
    parser.add_argument("--plus-tests", type=int, default=20, help=plus)
    parser.add_argument("--every", type=int, default=1, help="only each so many-th program; default: all")
    parser.add_argument("--only", nargs="+", choices=FILES, metavar="FILE", help="some of the files")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    if arguments.workers < 1 or arguments.plus_tests < 0 or arguments.every < 1:
        parser.error("--workers and --every must be at least 1, --plus-tests at least 0")
    if not arguments.data.is_dir():
        raise DataError(f"{arguments.data} is no folder; set --data to the one with the files")
    report = asyncio.run(judge_all(arguments))
    print(json.dumps(report) if arguments.json else table(report))
    sys.exit(1 if report["unexplained"] else 0)


if __name__ == "__main__":
    run_tool(main)
