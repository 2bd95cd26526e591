"""One row of CodeContests -> Problem, every field checked.

The data's columns are structs of lists (public_tests = {input: [...], output: [...]}). What is
dropped, and why, is decided in codecontests.py.
"""

from __future__ import annotations

from typing import Any, NoReturn

from rlef_lightning.errors import ConfigError, DataError
from rlef_lightning.types import CODECONTESTS_RULE, Interface, Limits, Problem, TestCase

REQUIRED_COLUMNS = ("name", "description", "public_tests", "private_tests", "generated_tests")
OPTIONAL_COLUMNS = (
    "time_limit",
    "memory_limit_bytes",
    "input_file",
    "output_file",
    "source",
    "difficulty",
    "cf_rating",
)
_SOURCES = ("unknown", "codechef", "codeforces", "hackerearth", "codejam", "atcoder", "aizu")
_TESTS_FORM = "{input: [text, ...], output: [text, ...]}"


def read_row(row: dict[str, Any], where: str, *, include_generated: bool) -> Problem:
    """The problem of a row (RLEF, sec. 3: generated tests count as private). `where` is for messages."""
    private = _tests(row, "private_tests", where)
    if include_generated:
        private += _tests(row, "generated_tests", where)
    return Problem(
        id=_text(row, "name", where),
        statement=_text(row, "description", where),
        public_tests=_tests(row, "public_tests", where),
        private_tests=private,
        limits=_limits(row, where),
        rule=CODECONTESTS_RULE,
        interface=_interface(row, where),
        metadata=_metadata(row, where),
    )


def _interface(row: dict[str, Any], where: str) -> Interface:
    """Files where the data names some; null, absent or empty: stdin and stdout."""
    names = {name: _text(row, name, where) for name in ("input_file", "output_file") if row.get(name)}
    try:
        return Interface(**names)
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from None


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        _refuse(where, field, value, "text")
    return value


def _tests(row: dict[str, Any], field: str, where: str) -> tuple[TestCase, ...]:
    value = row[field]
    if not isinstance(value, dict):
        _refuse(where, field, value, _TESTS_FORM)
    inputs = _texts(value.get("input"), f"{field}.input", where)
    outputs = _texts(value.get("output"), f"{field}.output", where)
    if len(inputs) != len(outputs):
        raise DataError(
            f"{where}, field {field}: {len(inputs)} inputs, {len(outputs)} outputs; expected as many of each"
        )
    pairs = zip(inputs, outputs, strict=True)
    return tuple(TestCase(stdin=stdin, expected_stdout=expected) for stdin, expected in pairs)


def _texts(value: Any, field: str, where: str) -> list[str]:
    if not isinstance(value, list):
        _refuse(where, field, value, "a list of text")
    for place, item in enumerate(value):
        if not isinstance(item, str):
            _refuse(where, f"{field}[{place}]", item, "text")
    return value


def _limits(row: dict[str, Any], where: str) -> Limits:
    """The data's own limits; where there is none (null or 0), the paper's 10 s and 1 GB."""
    cpu_s = _time_limit_s(row, where) or Limits().cpu_s
    memory_bytes = _whole(row, "memory_limit_bytes", where) or Limits().memory_bytes
    return Limits(cpu_s=cpu_s, wall_s=max(3 * cpu_s, cpu_s + 10.0), memory_bytes=memory_bytes)


def _time_limit_s(row: dict[str, Any], where: str) -> float:
    value = row.get("time_limit")
    if value is None:
        return 0.0
    if not isinstance(value, dict):
        _refuse(where, "time_limit", value, "{seconds: whole number, nanos: whole number} or null")
    seconds = _whole(value, "seconds", where, prefix="time_limit.")
    return seconds + _whole(value, "nanos", where, prefix="time_limit.") * 1e-9


def _whole(values: dict[str, Any], field: str, where: str, *, prefix: str = "") -> int:
    """A count; null or absent reads as 0, which the data uses for "none"."""
    value = values.get(field)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _refuse(where, prefix + field, value, "a whole number, at least 0")
    return value


def _metadata(row: dict[str, Any], where: str) -> dict[str, str]:
    """Origin and difficulty, for grouping in reports; 0 means unknown and is left out."""
    source = _whole(row, "source", where)
    metadata = {"source": _SOURCES[source] if source < len(_SOURCES) else str(source)}
    for name, field in (("difficulty", "difficulty"), ("rating", "cf_rating")):
        if number := _whole(row, field, where):
            metadata[name] = str(number)
    return metadata


def _refuse(where: str, field: str, value: Any, expected: str) -> NoReturn:
    found = "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
    raise DataError(f"{where}, field {field}: found {found}; expected {expected}")
