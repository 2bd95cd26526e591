"""What every source of problems offers.

A source is given in a config by class_path and init_args; it opens no file before `problems` is
called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from rlef_lightning.errors import ConfigError
from rlef_lightning.types import Problem

Split = Literal["train", "validation", "test"]
"""The three splits of RLEF, sec. 3."""


@runtime_checkable
class ProblemSource(Protocol):
    """Gives the problems of a split, in the same order every time."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """All problems of the split; their ids are unique. Raises DataError where the data is at fault."""
        ...


def require_path(source: str, split: Split, path: str | Path | None) -> Path:
    """The configured path of a split, or a ConfigError that names the option to set."""
    if path is None:
        raise ConfigError(f"{source} has no {split} file; set init_args.{split} to a path")
    return Path(path).expanduser()


def require_positive(source: str, **options: int | None) -> None:
    """Refuse limits below 1; None means no limit."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise ConfigError(
                f"{source}: init_args.{name} is {value}; it must be at least 1, or null for no limit"
            )
