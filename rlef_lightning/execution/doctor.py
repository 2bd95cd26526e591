"""All backends -> what each guarantees on this machine. `rlef doctor`, or as a module of its own.

Run as `python -m rlef_lightning.execution.doctor [--json] [--backend NAME]`. Starts each backend for real,
with one worker, and reads the self-test that its daemon makes at every start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.backends.bubblewrap import BubblewrapExecutor
from rlef_lightning.execution.backends.firejail import FirejailExecutor
from rlef_lightning.execution.backends.helper import HelperExecutor
from rlef_lightning.execution.backends.nsjail import NsjailExecutor
from rlef_lightning.execution.backends.subprocess import SubprocessExecutor
from rlef_lightning.execution.client import DaemonExecutor
from rlef_lightning.execution.features import features
from rlef_lightning.execution.guarantees import GUARANTEES, NOT_STOPPED, NOT_STOPPED_BY, Finding

BACKENDS: dict[str, type[DaemonExecutor]] = {
    "nsjail": NsjailExecutor,
    "bubblewrap": BubblewrapExecutor,
    "subprocess": SubprocessExecutor,
    "firejail": FirejailExecutor,
}
"""From the strongest tier to the weakest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """One backend on this machine."""

    name: str
    status: str
    """"started", "not installed" or "does not start"."""
    reason: str
    """Why it has not started, and what to do."""
    promised: tuple[str, ...]
    findings: tuple[Finding, ...]
    """Of every guarantee; empty when it has not started."""
    walls_missing: tuple[str, ...]
    selftest_s: float
    not_stopped: tuple[str, ...]

    @property
    def keeps_promises(self) -> bool:
        """True when it has started and every guarantee that it promises holds."""
        broken = any(not finding.held and finding.name in self.promised for finding in self.findings)
        return self.status == "started" and not broken

    def to_json(self) -> dict[str, Any]:
        """All fields by name, and what follows from them."""
        findings = [{**asdict(finding), "held": finding.held} for finding in self.findings]
        return {**asdict(self), "findings": findings, "keeps_promises": self.keeps_promises}


async def examine(name: str) -> Examination:
    """Starts one backend, without requiring anything, and ends it."""
    backend = BACKENDS[name]
    executor = backend(workers=1, required=[], share_as="")
    promised: tuple[str, ...] = ()
    status, reason = "started", ""
    try:
        promised = executor.promises
        await executor.start()
    except ExecutorError as error:
        status, reason = _why(backend, error)
    proof = executor.proof
    await executor.close()
    return Examination(
        name=name,
        status=status,
        reason=reason,
        promised=promised,
        findings=proof.findings if proof else (),
        walls_missing=proof.walls_missing if proof else (),
        selftest_s=proof.seconds if proof else 0.0,
        not_stopped=(*NOT_STOPPED_BY[name], *NOT_STOPPED),
    )


def _why(backend: type[DaemonExecutor], error: ExecutorError) -> tuple[str, str]:
    if issubclass(backend, HelperExecutor) and shutil.which(backend.program) is None:
        return "not installed", backend.how_to_get
    return "does not start", str(error)


async def examine_all(names: Iterable[str]) -> list[Examination]:
    """One after the other: they would be in each other's way."""
    return [await examine(name) for name in names]


def as_json(examinations: Sequence[Examination]) -> str:
    """The whole table, for programs."""
    return json.dumps({
        "machine": features(),
        "guarantees": {each.name: each.meaning for each in GUARANTEES},
        "backends": [each.to_json() for each in examinations],
        "ok": any(each.keeps_promises for each in examinations),
    })  # fmt: skip


def main(args: Sequence[str] | None = None) -> int:
    """Prints the table; 0 when at least one backend keeps all that it promises, else 1."""
    parser = argparse.ArgumentParser(prog="rlef doctor", description="What each sandbox guarantees here.")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--backend", choices=BACKENDS, help="this one only")
    options = parser.parse_args(args)
    examinations = asyncio.run(examine_all([options.backend] if options.backend else BACKENDS))
    if options.json:
        print(as_json(examinations))
    else:
        from rlef_lightning.execution.doctor_table import print_table

        print_table(examinations, features())
    return 0 if any(each.keeps_promises for each in examinations) else 1


if __name__ == "__main__":
    sys.exit(main())
