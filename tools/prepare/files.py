"""What the tools of this folder share: JSON lines in, an executor by its class path, one line per error."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlef_lightning.errors import ConfigError, DataError, RLEFError
from rlef_lightning.execution import Executor

DEFAULT_EXECUTOR = "rlef_lightning.execution.SubprocessExecutor"
VALUE_CHARS = 64 << 20
"""Characters of an output that a report keeps here: expected values are taken from it."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file; raises DataError with the line at fault."""
    rows = []
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for number, line in enumerate(file, start=1):
                rows.append(json.loads(line))
                if not isinstance(rows[-1], dict):
                    raise DataError(f"{path}:{number}: found {line[:40]!r}; expected an object")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON lines: {error}") from None
    return rows


def field(row: dict[str, Any], name: str, where: str) -> Any:
    """A field of a row; raises DataError when it is absent."""
    if name not in row:
        raise DataError(f"{where}: lacks the field {name!r}; found: {', '.join(row)}")
    return row[name]


def make_executor(class_path: str, workers: int, report_chars: int) -> Executor:
    """An executor of that class; raises ConfigError."""
    module, _, name = class_path.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)(workers=workers, report_chars=report_chars)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"no executor {class_path!r} with workers and report_chars: {error}") from None
    if not isinstance(made, Executor):
        raise ConfigError(f"{class_path} is no executor: it lacks start, judge or close")
    return made


def run_tool(main: Callable[[], None]) -> None:
    """Runs a tool's main; what the package raises on purpose ends it with one line."""
    try:
        main()
    except RLEFError as error:
        sys.exit(f"error: {error}")
