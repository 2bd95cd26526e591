"""A probe: a program that is run as any other, and a judgement outside about what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlef_lightning.execution.probes.decoys import Decoys
from rlef_lightning.execution.runs import RunFacts
from rlef_lightning.types import Limits

LIMITS = Limits(
    cpu_s=10.0, wall_s=10.0, memory_bytes=256 << 20, output_bytes=1 << 20, file_bytes=1 << 20, processes=8
)

PATIENCE = 25
"""How much more time a probe gets when its program could not even be set up in time, as a factor."""


class ProbeFailedError(Exception):
    """A probe did not say what it should have said, whatever it was: its guarantee is not proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of a probe, as seen from outside."""

    facts: RunFacts
    decoys: Decoys
    credentials: tuple[Mapping[str, str], ...]
    """/proc/<pid>/status of the worker's processes, each as it was last seen from outside."""
    survivors: int
    """Processes that the program has left."""

    @property
    def said(self) -> Any:
        """What the program printed, a JSON value; raises ProbeFailedError unless it ended well."""
        facts = self.facts
        if facts.status != 0 or facts.stopped is not None:
            cried = facts.stderr.decode(errors="replace")[-300:]
            raise ProbeFailedError(f"status {facts.status}, stopped by {facts.stopped}: {cried}")
        return json.loads(facts.stdout)

    @property
    def listed(self) -> list[str]:
        """What the program printed, a JSON list of words; raises ProbeFailedError for anything else."""
        said = self.said
        if not isinstance(said, list):
            raise ProbeFailedError(f"it said {said!r}, which is no list")
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One attempt on one guarantee."""

    guarantee: str
    code: str
    """The program. Its stdin is the decoys' JSON."""
    judge: Callable[[Outcome], str]
    """Words for what it could do; empty: it was stopped. May raise ProbeFailedError."""
    limits: Limits = LIMITS
    watched: bool = False
    """True: its processes are looked at from outside while they run."""
    leaves: bool = False
    """True: what it leaves behind is looked for."""


def patient(probe: Probe) -> Probe:
    """The same with more time: on a busy machine the shortest limits end before the program has begun."""
    cpu_s, wall_s = (PATIENCE * seconds for seconds in (probe.limits.cpu_s, probe.limits.wall_s))
    limits = replace(probe.limits, cpu_s=min(cpu_s, LIMITS.cpu_s), wall_s=min(wall_s, LIMITS.wall_s))
    return replace(probe, limits=limits)


def verdict(probe: Probe, outcome: Outcome) -> str:
    """The judgement in words; a probe that failed, or said what nobody understands, proves nothing."""
    try:
        return probe.judge(outcome)
    except (ProbeFailedError, ValueError, TypeError, LookupError) as error:
        return f"its probe failed: {error}"


_FRAME = """
import ctypes, errno, json, os, sys
given = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
{setup}
made = {{}}
def attempt(name, act):
    try:
        act()
        made[name] = "done"
    except OSError as error:
        made[name] = errno.errorcode.get(error.errno, str(error))
{lines}
print(json.dumps(made))
"""


def attempts(guarantee: str, setup: str, acts: Mapping[str, str]) -> Probe:
    """A probe that makes many attempts; each must end in an OSError, and none may be seen outside.

    Args:
        guarantee: What they are attempts on.
        setup: Statements before the first attempt; `given` holds the decoys.
        acts: Words for an attempt -> its Python expression.
    """
    lines = "\n".join(f"attempt({name!r}, lambda: {act})" for name, act in acts.items())

    def judge(outcome: Outcome) -> str:
        return could(succeeded(outcome.said, acts), outcome.decoys.touched())

    return Probe(guarantee=guarantee, code=_FRAME.format(setup=setup, lines=lines), judge=judge)


def succeeded(said: Mapping[str, str], acts: Iterable[str]) -> list[str]:
    """The attempts that were not refused; raises LookupError when the program is silent about one."""
    return [name for name in acts if said[name] == "done"]


def could(*found: list[str]) -> str:
    """Words for attempts that succeeded, each once."""
    return ", ".join(dict.fromkeys(name for names in found for name in names))
