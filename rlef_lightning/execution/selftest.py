"""workers -> Proof of what their walls hold, or ExecutorError. Made once, at the daemon's start.

Each guarantee is put to the test by programs that break it where they can (probes/). Cheap probes run in
every worker, dear ones are spread over the workers, which all have the same jail. A required guarantee
that is not held, or not proven, ends the start: no run ever begins behind weaker walls than configured.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.guarantees import NAMES, Finding, Proof, refusal
from rlef_lightning.execution.inside.kernel import descendants_of
from rlef_lightning.execution.link import RunnerLostError
from rlef_lightning.execution.probes.bounds import bounds
from rlef_lightning.execution.probes.decoys import Decoys
from rlef_lightning.execution.probes.probe import Outcome, Probe, patient, verdict
from rlef_lightning.execution.probes.reach import REACH
from rlef_lightning.execution.probes.walls import PATIENT_PRIVILEGES, WALLS
from rlef_lightning.execution.settings import Settings
from rlef_lightning.execution.worker import Worker

LOOK_S = 0.004
"""Seconds between two looks at a watched probe."""
REST_S = 0.04
"""Seconds in which a runner has forked the process for the next run."""
SETTLE_S = 2.0
"""Seconds in which what a probe has left must be gone; a process that was killed takes a moment to vanish."""


async def prove(workers: Sequence[Worker], settings: Settings) -> Proof:
    """Puts all guarantees to the test; raises ExecutorError when a required one does not hold."""
    started = time.monotonic()
    decoys = Decoys(settings.scratch, settings.owner_pid)
    try:
        plans = spread(bounds(settings), len(workers))
        found = await asyncio.gather(
            *(prove_worker(worker, plan, decoys) for worker, plan in zip(workers, plans, strict=True))
        )
    finally:
        decoys.close()
    findings = join(found)
    if gaps := [finding for finding in findings if not finding.held and finding.name in settings.required]:
        raise ExecutorError(refusal(gaps))
    missing = tuple(dict.fromkeys(wall for worker in workers for wall in worker.walls_missing))
    return Proof(findings=findings, walls_missing=missing, seconds=time.monotonic() - started)


def spread(probes: Iterable[Probe], workers: int) -> list[list[Probe]]:
    """The probes of each worker, those of one guarantee together and in order."""
    groups: dict[str, list[Probe]] = defaultdict(list)
    for probe in probes:
        groups[probe.guarantee].append(probe)
    plans: list[list[Probe]] = [[] for _ in range(workers)]
    for number, group in enumerate(groups.values()):
        plans[number % workers] += group
    return plans


async def prove_worker(worker: Worker, dear: Sequence[Probe], decoys: Decoys) -> list[tuple[str, str]]:
    """Guarantee and reason of each probe, the reason empty where it was stopped."""
    found = []
    for probe in (*WALLS, *REACH, *dear):
        reason = await attempt(worker, probe, decoys)
        if reason and probe.watched:
            reason = await attempt(worker, PATIENT_PRIVILEGES, decoys)
        found.append((probe.guarantee, reason))
    return found


async def attempt(worker: Worker, probe: Probe, decoys: Decoys, repeats: int = 1) -> str:
    """One probe in one worker: words for what it could do, or empty.

    A failure of the sandbox is repeated, as it is with any program: it says nothing about the guarantee. One
    such failure is a program that had not begun when its limit was over, so limits are longer then.
    """
    try:
        await worker.start()
        before = set(descendants_of(worker.process))
        seen: dict[int, Mapping[str, str]] = {}
        run = asyncio.ensure_future(worker.try_out(probe.code.encode(), decoys.to_json(), probe.limits))
        while probe.watched and not run.done():
            seen |= credentials(descendants_of(worker.process))
            await asyncio.wait([run], timeout=LOOK_S)
        facts = await run
        await worker.start()  # until it has cleaned up
        survivors = await left_over(worker, before) if probe.leaves else 0
    except RunnerLostError as error:
        if repeats:
            return await attempt(worker, patient(probe), decoys, repeats - 1)
        return f"its probe failed: {error}"
    outcome = Outcome(facts=facts, decoys=decoys, credentials=tuple(seen.values()), survivors=survivors)
    return verdict(probe, outcome)


async def left_over(worker: Worker, before: set[int]) -> int:
    """Processes of the worker that stay, beyond those before the run.

    One of the new ones is the process that the runner has forked for the next run, perhaps only later.
    """
    left = 0
    for _ in range(round(SETTLE_S / REST_S)):
        await asyncio.sleep(REST_S)
        left = len(set(descendants_of(worker.process)) - before) - 1
        if left <= 0:
            break
    return max(0, left)


def credentials(pids: Iterable[int]) -> dict[int, Mapping[str, str]]:
    """/proc/<pid>/status of the processes that are still there."""
    return {pid: dict(fields) for pid in pids if (fields := list(_status(pid)))}


def _status(pid: int) -> Iterator[tuple[str, str]]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                yield name, value
    except OSError:
        return


def join(found: Iterable[Iterable[tuple[str, str]]]) -> tuple[Finding, ...]:
    """One finding per guarantee: held when no probe of it, in any worker, could do a thing."""
    reasons: dict[str, dict[str, None]] = defaultdict(dict)
    for name, reason in (pair for pairs in found for pair in pairs):
        reasons[name].setdefault(reason)
    return tuple(Finding(name, _words(reasons[name])) for name in NAMES)


def _words(reasons: Iterable[str]) -> str:
    """The reasons in one phrase; no probe at all is no proof."""
    said = list(reasons)
    if not said:
        return "it was not put to the test"
    failed = [reason for reason in said if reason.startswith("its probe failed")]
    done = [reason for reason in said if reason and reason not in failed]
    return "; ".join([f"a program could {', '.join(done)}"] * bool(done) + failed)
