"""What a sandbox can guarantee, by name: the vocabulary of `required`, the self-test and `rlef doctor`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlef_lightning.errors import ConfigError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One promise about every run of a program."""

    name: str
    meaning: str
    """One line for people."""
    remedy: str
    """What to change where it does not hold."""


_JAIL = "use nsjail or bubblewrap, or a kernel and container that allow user name spaces"
_NEWER = "use a kernel of 5.13 or later with Landlock among its security modules, or nsjail or bubblewrap"
_FAULT = "nothing on this side: it is a fault of the sandbox, report it"
GUARANTEES = (
    Guarantee("time", "CPU seconds of all its processes and seconds on the clock are bounded", _FAULT),
    Guarantee("output", "what it prints is bounded", _FAULT),
    Guarantee("memory", "the memory of each of its processes is bounded", _FAULT),
    Guarantee(
        "total_memory",
        "the memory of all its processes together is bounded",
        "set cgroups: true and let the user make control groups below its own (as root, or by delegation)",
    ),
    Guarantee(
        "process_count",
        "its processes and threads are bounded in number",
        f"let the user make control groups, start as root, or {_JAIL}",
    ),
    Guarantee("file_size", "the size of each of its files is bounded", _FAULT),
    Guarantee("disk", "its files are bounded in their sum and in their number", _JAIL),
    Guarantee("environment", "its environment holds nothing of the trainer's", _FAULT),
    Guarantee("descriptors", "it holds no descriptor but stdin, stdout and stderr", _FAULT),
    Guarantee("stdin", "stdin is a regular file that nobody can change", _FAULT),
    Guarantee("survivors", "no process, no file and no mark on its folders outlives the run", _FAULT),
    Guarantee(
        "privileges",
        "it has no rights of root, no capabilities, and cannot gain any",
        "as root, leave drop_user at true; or start the trainer as an ordinary user",
    ),
    Guarantee("read_files", "it reads no files of the machine but programs and libraries", _NEWER),
    Guarantee("write_files", "it changes nothing outside of its scratch folder", _JAIL),
    Guarantee("processes", "it can neither signal nor trace nor read other processes", _JAIL),
    Guarantee("network", "it reaches no network and no socket of the machine", _JAIL),
    Guarantee(
        "system_calls",
        "system calls into the kernel's wider surfaces are refused",
        "use a kernel with filters of system calls (CONFIG_SECCOMP_FILTER) on x86-64 or 64-bit ARM",
    ),
)
"""In the order in which they are shown."""
NAMES = tuple(each.name for each in GUARANTEES)
REMEDIES = {each.name: each.remedy for each in GUARANTEES}
NOT_STOPPED = (
    "programs share the machine's kernel: a hole in it is a way out",
    "programs see the machine's load, slow each other down, and can measure it",
    "the system's programs and libraries, and what /proc says about the machine, can be read",
)
"""What no backend stops, and no self-test can show."""
_ONE_FILE_SYSTEM = "the machine's files are closed, not hidden: their existence, sizes and times can be seen"
NOT_STOPPED_BY: dict[str, tuple[str, ...]] = {
    "nsjail": (),
    "bubblewrap": (),
    "subprocess": (_ONE_FILE_SYSTEM,),
    "firejail": (
        "firejail is setuid root, with a history of holes in itself: the weakest of the four",
        _ONE_FILE_SYSTEM,
    ),
}
"""What a backend does not stop beyond that."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the self-test found out about one guarantee on this machine."""

    name: str
    reason: str
    """What a probe could do that it must not; empty: the guarantee holds."""

    @property
    def held(self) -> bool:
        """True when every probe was stopped."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The self-test of one daemon."""

    findings: tuple[Finding, ...]
    """One per guarantee, in the order of `GUARANTEES`."""
    walls_missing: tuple[str, ...]
    """Walls that runners could not put up, and why; another one may stand in for them."""
    seconds: float
    """How long it took."""

    @property
    def gaps(self) -> tuple[Finding, ...]:
        """The guarantees that do not hold."""
        return tuple(finding for finding in self.findings if not finding.held)

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Proof:
        """The inverse of `to_json`."""
        return Proof(
            findings=tuple(Finding(**finding) for finding in fields["findings"]),
            walls_missing=tuple(fields["walls_missing"]),
            seconds=fields["seconds"],
        )


def check_names(names: Iterable[str]) -> None:
    """Raises ConfigError for a name that is no guarantee's."""
    if unknown := [name for name in names if name not in NAMES]:
        raise ConfigError(
            f"required names {', '.join(map(repr, unknown))}, which no guarantee is called; "
            f"known: {', '.join(NAMES)}"
        )


def refusal(gaps: Sequence[Finding]) -> str:
    """Why no program is run: the guarantees that are required and not held, and what to change.

    A reason that several have in common, such as a runner that dies, is given once.
    """
    names: dict[tuple[str, str], list[str]] = {}
    for gap in gaps:
        names.setdefault((gap.reason, REMEDIES[gap.name]), []).append(repr(gap.name))
    said = "; ".join(f"{', '.join(those)}: {reason} ({remedy})" for (reason, remedy), those in names.items())
    return (
        f"the sandbox refuses to run programs, because required guarantees do not hold here: {said}. "
        "`rlef doctor` shows what holds with every backend; to go on without one, leave it out of required"
    )


@functools.cache
def warn_once(backend: str, gaps: tuple[Finding, ...]) -> None:
    """One line in the log of this process about the guarantees that do not hold."""
    if gaps:
        said = "; ".join(f"{gap.name} ({gap.reason})" for gap in gaps)
        _LOG.warning("%s: the sandbox does not guarantee %s. See `rlef doctor`.", backend, said)
