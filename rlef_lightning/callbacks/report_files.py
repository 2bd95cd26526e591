"""Bytes -> a file that is either whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: a reader, or a run that is stopped here, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)  # mkstemp's 0600 would keep a web server from showing the report
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
