"""CodeContests: parquet files in the schema of Hugging Face deepmind/code_contests -> Problem.

Reads the columns that the task needs, checks every row (codecontests_rows.py) and drops problems
that cannot be judged. It downloads nothing and does not look at solutions.
"""

from __future__ import annotations

import dataclasses
import glob
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

from rlef_lightning.errors import DataError
from rlef_lightning.problems.codecontests_rows import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, read_row
from rlef_lightning.problems.source import Split, require_path, require_positive
from rlef_lightning.types import Problem

_logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 32
_FILE_PREFIXES: dict[Split, tuple[str, ...]] = {
    "train": ("train-", "train."),
    "validation": ("valid-", "valid.", "validation-", "validation."),
    "test": ("test-", "test."),
}


class CodeContests:
    """The paper's data set (RLEF, sec. 3): private tests are the data's private and generated ones.

    Dropped, counted and logged are problems without a statement, public tests or private tests, with
    a statement longer than `max_statement_chars`, and with a name seen before. Solutions of the few problems
    with an input_file or output_file read and write those instead of stdin and stdout.
    """

    def __init__(
        self,
        train: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        *,
        max_problems: int | None = None,
        max_private_tests: int | None = None,
        include_generated: bool = True,
        max_statement_chars: int | None = None,
    ) -> None:
        """Opens no file.

        Args:
            train: A parquet file, a folder of them, or a glob such as "data/train-*.parquet". In a folder
                whose files are named by split (train-00000-of-00039.parquet), only the split's are read.
            validation: Likewise.
            test: Likewise.
            max_problems: The first so many problems of each split; null: all.
            max_private_tests: The first so many private tests of each problem; null: all.
            include_generated: True: the data set's generated tests count as private ones, as in the paper.
            max_statement_chars: Problems with longer statements are left out; null: none is.
        """
        require_positive(
            "CodeContests",
            max_problems=max_problems,
            max_private_tests=max_private_tests,
            max_statement_chars=max_statement_chars,
        )
        self._paths: dict[Split, str | Path | None] = {"train": train, "validation": validation, "test": test}
        self._max_problems = max_problems
        self._max_private_tests = max_private_tests
        self._include_generated = include_generated
        self._max_statement_chars = max_statement_chars

    def problems(self, split: Split) -> Sequence[Problem]:
        """The split's problems in the order of file names, then rows."""
        kept: dict[str, Problem] = {}
        dropped: Counter[str] = Counter()
        for where, row in self._rows(self._files(split)):
            problem = read_row(row, where, include_generated=self._include_generated)
            reason = "with a name seen before" if problem.id in kept else self._reason_to_drop(row, problem)
            if reason is None:
                kept[problem.id] = self._capped(problem)
            else:
                dropped[reason] += 1
            if len(kept) == self._max_problems:
                break
        self._tell(split, kept, dropped)
        return tuple(kept.values())

    def _tell(self, split: Split, kept: Sized, dropped: Counter[str]) -> None:
        """Log what was dropped; nothing left is an error."""
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none"
        _logger.info("CodeContests %s: %d problems kept; dropped: %s", split, len(kept), counts)
        if not kept:
            path = self._paths[split]
            raise DataError(
                f"CodeContests: no usable problem in {path} (init_args.{split}); dropped: {counts}"
            )

    def _reason_to_drop(self, row: dict[str, Any], problem: Problem) -> str | None:
        limit = self._max_statement_chars
        if not problem.statement.strip():
            return "without a statement"
        if not problem.public_tests:
            return "without public tests"
        if not problem.private_tests:
            return "without private tests"
        if limit is not None and len(problem.statement) > limit:
            return f"with a statement over {limit} characters"
        return None

    def _capped(self, problem: Problem) -> Problem:
        if self._max_private_tests is None or len(problem.private_tests) <= self._max_private_tests:
            return problem
        return dataclasses.replace(problem, private_tests=problem.private_tests[: self._max_private_tests])

    def _files(self, split: Split) -> list[Path]:
        path = require_path("CodeContests", split, self._paths[split])
        if path.is_dir():
            return _files_of_folder(path, split)
        files = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(path)))
        if not files:
            raise DataError(
                f"CodeContests: {path} does not exist or matches no file; init_args.{split} must be a "
                "parquet file, a folder of them or a glob"
            )
        return files

    def _rows(self, paths: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row with its place for messages; a file's rows count from 0."""
        for path in paths:
            for number, row in enumerate(_rows_of_file(path, self._include_generated)):
                yield f"CodeContests: {path}, row {number}", row


def _rows_of_file(path: Path, include_generated: bool) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow.names, include_generated)
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"CodeContests: {path} is not a readable parquet file ({error})") from error


def _files_of_folder(folder: Path, split: Split) -> list[Path]:
    """The folder's parquet files of the split; all of them where names say nothing about splits."""
    files = sorted(folder.glob("*.parquet"))
    prefixes = [prefix for names in _FILE_PREFIXES.values() for prefix in names]
    if any(file.name.startswith(tuple(prefixes)) for file in files):
        files = [file for file in files if file.name.startswith(_FILE_PREFIXES[split])]
    if not files:
        raise DataError(
            f"CodeContests: the folder {folder} (init_args.{split}) holds no {split} *.parquet file"
        )
    return files


def _columns(path: Path, present: Sequence[str], include_generated: bool) -> list[str]:
    """The columns to read; solutions, which make up most of the file, are left alone."""
    required = [name for name in REQUIRED_COLUMNS if include_generated or name != "generated_tests"]
    missing = [name for name in required if name not in present]
    if missing:
        raise DataError(
            f"CodeContests: {path} lacks the column {missing[0]!r}; expected the schema of "
            f"deepmind/code_contests; found: {', '.join(present)}"
        )
    return [*required, *(name for name in OPTIONAL_COLUMNS if name in present)]
