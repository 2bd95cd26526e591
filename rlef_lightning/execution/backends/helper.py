"""What the backends with a helper program share: finding it, and the guarantees of a full jail."""

from __future__ import annotations

import os
import shutil
from typing import Any

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.client import DaemonExecutor
from rlef_lightning.execution.guarantees import NAMES

EVERYTHING = NAMES
"""All guarantees."""


class HelperExecutor(DaemonExecutor):
    """A DaemonExecutor whose jails are made by a program that must be installed."""

    program: str
    """Name of the helper program."""
    how_to_get: str
    """One sentence for the user who lacks it."""

    def __init__(self, *, binary: str | None = None, **kwargs: Any):
        """Starts nothing.

        Args:
            binary: Path of the helper program; null: found on PATH.
            kwargs: See `DaemonExecutor`. With `recycle_after: 1` each run has a jail of its own.
        """
        super().__init__(**kwargs)
        self.binary = binary

    @classmethod
    def find(cls, binary: str | None = None) -> str:
        """Path of the helper program; raises ExecutorError when it is not installed."""
        found = shutil.which(binary or cls.program)
        if found is None:
            raise ExecutorError(
                f"{cls.__name__} needs the program {binary or cls.program!r}, which is not on PATH. "
                f"{cls.how_to_get}, or choose another executor"
            )
        return os.path.abspath(found)
