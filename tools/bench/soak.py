"""Many runs in one life of an executor: python tools/bench/soak.py --backend subprocess --runs 100000 --json.

Each run prints a number of its own, so that a result that is lost, doubled or given to another test is
seen. At the start, after each tenth of the runs and at the end, with nothing under way, it counts for this
process and for all below it: memory, descriptors, processes, temporary files. Prints one JSON object last
and ends with 1 unless all results were right and everything stayed flat, which means, from the first tenth
to the end:

- the same number of processes and of descriptors, and no more temporary files;
- memory (resident, of this process, of the daemon and of all others below it, each) grew by no more than
  GROWTH_BYTES + GROWTH_SHARE of itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: its folder is on the path, the project's root is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rlef_lightning.execution import Executor
from rlef_lightning.execution.inside.kernel import PR_SET_CHILD_SUBREAPER, descendants_of, prctl
from rlef_lightning.types import Limits, OutputRule, TestCase
from tools.bench.backends import add_arguments, started

GROWTH_BYTES, GROWTH_SHARE = 2 << 20, 0.05
TESTS_PER_SOLUTION, SOLUTIONS_AT_ONCE = 10, 20
SETTLE_S = 0.5
"""Seconds for the runners to tidy up after the last run."""
SOLUTION = "print({base} + int(input()))"
LIMITS, RULE = Limits(), OutputRule(exact_whitespace=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is in use at one moment."""

    runs: int
    own_rss_bytes: int
    daemon_rss_bytes: int
    other_rss_bytes: int
    fds: int
    """Open descriptors of this process and of all below it."""
    processes: int
    """Those below this process."""
    files: int
    """Files and folders in the temporary folder."""


def rss_bytes(pid: int) -> int:
    """Resident memory; 0 when the process is gone or is a zombie."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def descriptors(pid: int) -> int:
    """Open descriptors; 0 when the process is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def is_daemon(pid: int) -> bool:
    """True for the executor's daemon, told by its command line."""
    try:
        return b"rlef_lightning.execution.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def snapshot(runs: int, folder: str) -> Snapshot:
    """Counts now; everything that the executor started must be below this process."""
    own, below = os.getpid(), descendants_of(os.getpid())
    memory = Counter[bool]()
    for pid in below:
        memory[is_daemon(pid)] += rss_bytes(pid)
    return Snapshot(
        runs=runs,
        own_rss_bytes=rss_bytes(own),
        daemon_rss_bytes=memory[True],
        other_rss_bytes=memory[False],
        fds=sum(map(descriptors, (own, *below))),
        processes=len(below),
        files=sum(1 for _ in Path(folder).rglob("*")),
    )


def unflat(snapshots: Sequence[Snapshot]) -> list[str]:
    """What grew between the first tenth and the end, in words; empty when all stayed flat."""
    base, last = snapshots[1], snapshots[-1]
    said = []
    for name in ("processes", "fds", "files"):
        before, after = getattr(base, name), getattr(last, name)
        if after > before or (name == "processes" and after != before):
            said.append(f"{name}: {before} -> {after}")
    for name in ("own_rss_bytes", "daemon_rss_bytes", "other_rss_bytes"):
        before, after = getattr(base, name), getattr(last, name)
        if after > before * (1 + GROWTH_SHARE) + GROWTH_BYTES:
            said.append(f"{name}: {before} -> {after}")
    return said


async def judge_numbers(executor: Executor, numbers: range) -> list[str]:
    """One solution of its own, one run for each number; what each run printed, in the tests' order."""
    tests = [TestCase(stdin=f"{number - numbers[0]}\n", expected_stdout=f"{number}\n") for number in numbers]
    report = await executor.judge(
        SOLUTION.format(base=numbers[0]), tests, limits=LIMITS, rule=RULE, stop_at_first_failure=False
    )
    return [
        result.stdout if result.passed else f"{result.verdict}: {result.stderr}" for result in report.results
    ]


async def judge_all(executor: Executor, numbers: range) -> Counter[str]:
    """How often each mistake was made: "wrong" for what is not the test's own number, "doubled", "lost".

    At most SOLUTIONS_AT_ONCE solutions wait at any time, so that the queue itself stays small.
    """
    seen, mistakes = Counter[str](), Counter[str]()
    room = asyncio.Semaphore(SOLUTIONS_AT_ONCE)

    async def judge_some(part: range) -> None:
        async with room:
            printed = await judge_numbers(executor, part)
        mistakes["wrong"] += sum(text != f"{number}\n" for text, number in zip(printed, part, strict=True))
        seen.update(printed)

    parts = [numbers[at : at + TESTS_PER_SOLUTION] for at in range(0, len(numbers), TESTS_PER_SOLUTION)]
    await asyncio.gather(*map(judge_some, parts))
    mistakes["doubled"] = sum(count - 1 for count in seen.values())
    mistakes["lost"] = sum(f"{number}\n" not in seen for number in numbers)
    return mistakes


async def soak(backend: str, workers: int, runs: int, *, quiet: bool = True) -> dict[str, Any]:
    """The whole soak in a temporary folder of its own."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # a daemon that detaches itself stays below this process
    with tempfile.TemporaryDirectory(prefix="rlef-soak-") as folder:
        os.chmod(folder, 0o711)  # programs of other users pass through it
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            executor = await started(backend, workers)
            try:
                return await soaked(executor, folder, runs, quiet)
            finally:
                await executor.close()
        finally:
            tempfile.tempdir = before


async def soaked(executor: Executor, folder: str, runs: int, quiet: bool) -> dict[str, Any]:
    """Ten tenths, each followed by a count."""
    mistakes, start, snapshots = Counter[str](), time.perf_counter(), [snapshot(0, folder)]
    for tenth in range(10):
        numbers = range(runs * tenth // 10, runs * (tenth + 1) // 10)
        mistakes += await judge_all(executor, numbers)
        await asyncio.sleep(SETTLE_S)
        snapshots.append(snapshot(numbers.stop, folder))
        if not quiet:
            print(json.dumps(asdict(snapshots[-1])), flush=True)
    grown = unflat(snapshots)
    return {
        "runs": runs,
        "runs_per_s": round(runs / (time.perf_counter() - start - 10 * SETTLE_S), 1),
        **{name: mistakes[name] for name in ("wrong", "lost", "doubled")},
        "flat": not grown,
        "grown": grown,
        "flat_means": "from the first tenth to the end: processes equal, fds and files no more,"
        f" rss of each kind within {GROWTH_SHARE:.0%} + {GROWTH_BYTES >> 20} MiB",
        "snapshots": [asdict(one) for one in snapshots],
    }


def main() -> int:
    """0 when every result was right and everything stayed flat, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--runs", type=int, default=100_000)
    arguments = parser.parse_args()
    if arguments.workers < 1 or arguments.runs < 10:
        parser.error("--workers must be at least 1, and --runs at least 10")
    found = asyncio.run(soak(arguments.backend, arguments.workers, arguments.runs, quiet=arguments.json))
    asked = {"backend": arguments.backend, "workers": arguments.workers}
    print(json.dumps({**asked, **found}))
    return 0 if found["flat"] and not (found["wrong"] or found["lost"] or found["doubled"]) else 1


if __name__ == "__main__":
    sys.exit(main())
