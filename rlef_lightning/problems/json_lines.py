"""Our own format: JSON lines <-> Problem.

One problem a line, in UTF-8, in a .jsonl or .jsonl.gz file; blank lines are passed over:

    {"id": "sum-1",
     "statement": "Read a and b. Print a + b.",
     "public_tests": [{"stdin": "3 4\\n", "expected_stdout": "7\\n"}],
     "private_tests": [{"stdin": "1 1\\n", "expected_stdout": "2\\n"}],
     "limits": {"cpu_s": 2.0},
     "rule": {"ignore_case": true},
     "interface": {"input_file": "sum.in"},
     "metadata": {"family": "sums"}}

`limits`, `rule`, `interface` and `metadata` may be left out, as may each of their fields, which are
those of types.Limits, types.OutputRule and types.Interface with the same defaults. Unknown fields are
errors, so that a mistyped one cannot go unseen. The fields themselves are checked in json_fields.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rlef_lightning.errors import DataError
from rlef_lightning.problems.json_fields import read_problem
from rlef_lightning.problems.source import Split, require_path, require_positive
from rlef_lightning.types import Problem


class JsonLines:
    """A file of problems for each split (the splits of RLEF, sec. 3)."""

    def __init__(
        self,
        train: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        *,
        max_problems: int | None = None,
    ) -> None:
        """Opens no file.

        Args:
            train: A .jsonl or .jsonl.gz file, one problem a line.
            validation: Likewise.
            test: Likewise.
            max_problems: The first so many problems of each split; null: all.
        """
        require_positive("JsonLines", max_problems=max_problems)
        self._paths: dict[Split, str | Path | None] = {"train": train, "validation": validation, "test": test}
        self._max_problems = max_problems

    def problems(self, split: Split) -> Sequence[Problem]:
        """The split's problems in the order of the file."""
        path = require_path("JsonLines", split, self._paths[split])
        if not path.is_file():
            raise DataError(
                f"JsonLines: {path} is not a file; set init_args.{split} to a .jsonl or .jsonl.gz file"
            )
        problems = read_json_lines(path)
        if not problems:
            raise DataError(f"JsonLines: {path} (init_args.{split}) holds no problem")
        return problems[: self._max_problems]


def read_json_lines(path: str | Path) -> tuple[Problem, ...]:
    """The problems of a file. Raises DataError with the file, the line and the field at fault."""
    problems: dict[str, Problem] = {}
    lines: dict[str, int] = {}
    for number, line in _numbered_lines(Path(path)):
        problem = read_problem(_parse(line, f"{path}:{number}"), f"{path}:{number}")
        if problem.id in problems:
            raise DataError(
                f"{path}:{number}, field id: found {problem.id!r}, the id of line {lines[problem.id]}; "
                "expected unique ids"
            )
        problems[problem.id], lines[problem.id] = problem, number
    return tuple(problems.values())


def write_json_lines(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write a file that `read_json_lines` reads back equal; it appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as raw, _compressed(raw, path) as stream:
            for problem in problems:
                line = json.dumps(_to_json(problem), allow_nan=False) + "\n"
                stream.write(line.encode("ascii"))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _compressed(raw: BinaryIO, path: Path) -> contextlib.AbstractContextManager[BinaryIO | gzip.GzipFile]:
    """The file, compressed where the name says so; no time stamp, so that equal data are equal bytes."""
    if path.suffix != ".gz":
        return contextlib.nullcontext(raw)
    return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, counted from 1."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 JSON lines ({error})") from error


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON value ({error}); expected one object a line") from error


def _to_json(problem: Problem) -> dict[str, Any]:
    return {
        "id": problem.id,
        "statement": problem.statement,
        "public_tests": [dataclasses.asdict(test) for test in problem.public_tests],
        "private_tests": [dataclasses.asdict(test) for test in problem.private_tests],
        "limits": dataclasses.asdict(problem.limits),
        "rule": dataclasses.asdict(problem.rule),
        "interface": dataclasses.asdict(problem.interface),
        "metadata": dict(problem.metadata),
    }
