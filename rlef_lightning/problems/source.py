"""What every source of problems offers, and the checks that all of them share.

A source is given in a config by class_path and init_args; it opens no file before `problems` is
called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from rlef_lightning.errors import ConfigError, DataError
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


def check_unique_ids(problems: Sequence[Problem], origin: str) -> None:
    """Refuse two problems with one id: ids key metrics, seeds and stored episodes."""
    places: dict[str, int] = {}
    for place, problem in enumerate(problems):
        first = places.setdefault(problem.id, place)
        if first != place:
            raise DataError(
                f"{origin}: problems {first} and {place} (counted from 0) share the id {problem.id!r}; "
                "expected unique ids"
            )
