"""Which runs are repeated before they are believed. Pure; judge.py repeats them.

A verdict must not depend on how busy the machine was. Three kinds of end can be the machine's doing:

- A program that ended by itself a little beyond its CPU limit. Other programs share caches and cores with
  it, which costs CPU time. Programs are given STRETCH times their limit, so that such an end can be seen;
  one that is still running then is believed to be too slow, so that a loop is never run twice.
- A program that broke the wall limit within its CPU limit, though it used or waited for a processor most
  of the time. One that slept is believed. One that mostly waited is never believed, however often.
- A SIGKILL that nobody here sent, with little memory in use: the machine may have run out of memory by
  other programs' doing, or the program has killed itself. The second time it is the program's failure.
"""

from __future__ import annotations

import signal

from rlef_lightning.execution.runs import RunFacts
from rlef_lightning.types import Limits

STRETCH = 1.1
"""How far beyond its CPU limit a program may run, as a factor. Time over the limit is over the limit."""
BUSY = 0.5
"""Share of the wall time from which on a program counts as one that wanted to run, not to sleep."""
STARVED_RUNS = 3
"""Runs alone of a program that gets no processor, before that is a failure of the machine."""
NEARLY_FULL = 0.9
"""Share of the memory limit from which on a kill or a crash is put down to memory."""


def near_the_time_limit(facts: RunFacts, limits: Limits) -> bool:
    """True when the time-out may be the machine's doing: repeat it once, alone."""
    if facts.stopped == "wall":
        wanted_s = facts.cpu_s + facts.starved_s
        return facts.cpu_s <= limits.cpu_s and wanted_s >= BUSY * facts.wall_s
    return facts.stopped is None and limits.cpu_s < facts.cpu_s <= STRETCH * limits.cpu_s


def was_starved(facts: RunFacts, limits: Limits) -> bool:
    """True when the wall limit says nothing about the program: it mostly waited for a processor.

    More than it computed, too: a program whose own processes keep each other waiting is not the machine's
    victim. With a wall limit of at least twice the CPU limit, no program that never sleeps is judged wrongly.
    """
    return (
        facts.stopped == "wall"
        and facts.cpu_s <= limits.cpu_s
        and facts.starved_s > facts.cpu_s
        and facts.starved_s >= BUSY * facts.wall_s
    )


def killed_by_nobody(facts: RunFacts, limits: Limits) -> bool:
    """True for a SIGKILL without a reason: repeat it once."""
    return (
        facts.stopped is None
        and facts.status == -signal.SIGKILL
        and facts.cpu_s <= limits.cpu_s  # the backup limit on CPU kills, too
        and not nearly_full(facts, limits)
    )


def nearly_full(facts: RunFacts, limits: Limits) -> bool:
    """True when a process of the program held most of what it may hold."""
    return facts.peak_memory_bytes > NEARLY_FULL * limits.memory_bytes
