"""One test at a time on the GPU: pytest's processes would start engines beside each other, in one memory."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def alone_on_the_gpu() -> Iterator[None]:
    """Wait until no other process of this user is in a test of the GPU."""
    path = Path(tempfile.gettempdir(), f"rlef-tests-gpu-{os.getuid()}.lock")
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
