"""What modules of the library want done after a fork, put off from the runner's forks to the programs' own.

`threading` and `random` repair themselves after each fork, which costs 0.4 ms: it touches, and so copies, a
hundred pages. A program's process needs none of it, as the runner has neither threads nor a state of `random`
to hide; a process that the program forks in its turn gets all of it. This module comes before all others.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_register = os.register_at_fork
_held: list[dict[str, Callable[[], object]]] = []


def hold() -> None:
    """From here on, what modules register is kept for `release`."""

    def keep(**hooks: Callable[[], object]) -> None:
        _held.append(hooks)

    os.register_at_fork = keep  # type: ignore[assignment]


def release() -> None:
    """Registers what was kept, for the forks of this process and of those below it."""
    os.register_at_fork = _register
    while _held:
        _register(**_held.pop(0))
