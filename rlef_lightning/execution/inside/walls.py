"""What the kernel shall refuse to a program: made ready once by the runner, put up by each program's process.

What cannot be had on this machine is said at the runner's start (`missing`); whether a run may begin without
it is decided outside, by proof (selftest.py).
"""

from __future__ import annotations

import math
import os
import re
import resource
import signal
from typing import Any

from . import landlock, namespaces
from .kernel import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, lower, prctl
from .seccomp import Filter

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

NO_RULES = -1

_COUNTS_PER_NAMESPACE = (5, 14)
"""Since this kernel a user's processes are counted apart in each user name space."""


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


class Walls:
    """The walls around the programs of one runner.

    Args:
        options: uid (the programs' user; null: the runner's), neighbours (processes that count together
            with a program's under RLIMIT_NPROC; null: they are not known, so there is no such limit),
            readable (paths), scratch_bytes and scratch_files (null: no file system of its own), outer_mounts
            (number of the daemon's mount name space, in which nothing must be changed).
        folder: The programs' scratch folder; its parent is where the file system goes.
    """

    def __init__(self, options: dict[str, Any], folder: str):
        self.uid: int | None = options["uid"]
        self.missing: list[str] = []
        self.own_disk = False
        self._neighbours: int | None = options["neighbours"]
        self._readable, self._folder = [*options["readable"], "/proc"], folder
        self._filter: Filter | None = None
        self.rules = NO_RULES
        """Descriptor of the Landlock rules, once there are some."""
        if self.uid is None and _kernel() < _COUNTS_PER_NAMESPACE:
            self._neighbours = None
        if options["scratch_bytes"] is not None:
            self._mount(options["scratch_bytes"], options["scratch_files"], options["outer_mounts"])
        namespaces.keep_capabilities(namespaces.RUNNER_CAPABILITIES)
        try:
            self._filter = Filter()
            self._filter.try_out()
        except OSError as error:
            self._filter = None
            self.missing.append(f"no filter of system calls: {error.strerror}")

    def _mount(self, size: int, files: int, outer: int) -> None:
        if os.stat("/proc/self/ns/mnt").st_ino == outer:
            self.missing.append("no mounts of its own: it sees the machine's")
            return
        try:
            namespaces.make_read_only()
        except OSError as error:
            self.missing.append(f"mounts stay writable: {error.strerror}")
        try:
            namespaces.mount_scratch(os.path.dirname(self._folder), size, files)
            self.own_disk = True
        except OSError as error:
            self.missing.append(f"no scratch file system of its own: {error.strerror}")

    def surround(self) -> None:
        """To be called for each new scratch folder: rules hold for a folder, not for its name."""
        stood = self.rules != NO_RULES
        if stood and self.uid is not None:
            return  # they hold for the folder above, in which programs of another user can make nothing
        if stood:
            os.close(self.rules)
            self.rules = NO_RULES
        writable = self._folder if self.uid is None else os.path.dirname(self._folder)
        try:
            self.rules = landlock.ruleset(self._readable, _DEVICES, writable)
        except OSError as error:
            if stood:
                raise  # this runner ends and is replaced: never on with fewer walls than were proven
            self.missing.append(f"no Landlock: {error.strerror}")

    def share(self) -> None:
        """In the template: what can be the same for all programs, so that each need not put it up anew."""
        lower(resource.RLIMIT_CORE, 0)
        if self.uid is not None and self.rules != NO_RULES:
            landlock.restrict_self(self.rules)
        if self._filter is not None:
            self._filter.load()

    def enclose(self, rules: int) -> None:
        """In the program's process, before its descriptors are closed.

        A program that has the template's user needs rules of its own: they keep it from signalling whatever
        is not behind them as well, and so the template.
        """
        if self.uid is None and rules != NO_RULES:
            landlock.restrict_self(rules)

    def confine(self) -> None:
        """In the program's process: its user; then nothing is left of the runner's rights."""
        if self.uid is not None:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        namespaces.drop_capabilities()
        prctl(PR_SET_DUMPABLE, 1)  # else /proc/self, and with it /dev/stdin, belongs to root
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user would clear it

    def limit(self, limits: dict[str, Any]) -> None:
        """In the program's process, once its job is known."""
        cpu_s = math.ceil(limits["cpu_s"]) + 1  # the backup: the runner's own clock is finer
        lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
        lower(resource.RLIMIT_FSIZE, limits["file_bytes"])
        if self._neighbours is not None:
            lower(resource.RLIMIT_NPROC, limits["processes"] + self._neighbours)
        lower(resource.RLIMIT_AS, limits["memory_bytes"])
