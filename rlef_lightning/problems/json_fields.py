"""A parsed JSON object -> Problem, every field checked. The format is told in json_lines.py."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

from rlef_lightning.errors import ConfigError, DataError
from rlef_lightning.types import Interface, Limits, OutputRule, Problem, TestCase

_REQUIRED = ("id", "statement", "public_tests", "private_tests")
_ALL = (*_REQUIRED, "limits", "rule", "interface", "metadata")
_TEST_FIELDS = ("stdin", "expected_stdout")


def read_problem(value: Any, where: str) -> Problem:
    """The problem of one line; `where` (file:line) begins every message. Raises DataError."""
    _check_object(value, "the line", where, allowed=_ALL, required=_REQUIRED)
    if not isinstance(value["id"], str) or not value["id"]:
        _refuse(where, "id", value["id"], "text that is not empty")
    return Problem(
        id=value["id"],
        statement=_text(value["statement"], "statement", where),
        public_tests=_tests(value["public_tests"], "public_tests", where),
        private_tests=_tests(value["private_tests"], "private_tests", where),
        limits=Limits(**_limits(value.get("limits", {}), where)),
        rule=OutputRule(**_rule(value.get("rule", {}), where)),
        interface=_interface(value.get("interface", {}), where),
        metadata=_metadata(value.get("metadata", {}), where),
    )


def _tests(value: Any, field: str, where: str) -> tuple[TestCase, ...]:
    """The tests of one kind; none at all could neither give feedback nor a reward."""
    if not isinstance(value, list) or not value:
        _refuse(where, field, value, "a list of at least one test")
    tests = []
    for place, test in enumerate(value):
        name = f"{field}[{place}]"
        _check_object(test, name, where, allowed=_TEST_FIELDS, required=_TEST_FIELDS)
        texts = {key: _text(test[key], f"{name}.{key}", where) for key in _TEST_FIELDS}
        tests.append(TestCase(**texts))
    return tuple(tests)


def _limits(value: Any, where: str) -> dict[str, Any]:
    """Fields of Limits: whole numbers or seconds, all above 0."""
    known = {field.name: field.default for field in dataclasses.fields(Limits)}
    _check_object(value, "limits", where, allowed=known)
    for name, number in value.items():
        if isinstance(known[name], int) and not _is_whole(number):
            _refuse(where, f"limits.{name}", number, "a whole number above 0")
        if not _is_number(number) or number <= 0:
            _refuse(where, f"limits.{name}", number, "a number above 0")
    return dict(value)


def _rule(value: Any, where: str) -> dict[str, Any]:
    """Fields of OutputRule: true or false, a tolerance of at least 0, or the source of a checker."""
    known = {field.name: field.default for field in dataclasses.fields(OutputRule)}
    _check_object(value, "rule", where, allowed=known)
    for name, item in value.items():
        if isinstance(known[name], bool):
            if not isinstance(item, bool):
                _refuse(where, f"rule.{name}", item, "true or false")
        elif isinstance(known[name], str):
            _text(item, f"rule.{name}", where)
        elif not _is_number(item) or item < 0:
            _refuse(where, f"rule.{name}", item, "a number, at least 0")
    return dict(value)


def _interface(value: Any, where: str) -> Interface:
    """Names of files, or of a function."""
    names = [field.name for field in dataclasses.fields(Interface)]
    _check_object(value, "interface", where, allowed=names)
    try:
        return Interface(**{name: _text(item, f"interface.{name}", where) for name, item in value.items()})
    except ConfigError as error:
        raise DataError(f"{where}, field interface: {error}") from None


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        _refuse(where, "metadata", value, "an object of texts")
    return {key: _text(item, f"metadata.{key}", where) for key, item in value.items()}


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        _refuse(where, field, value, "text")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _check_object(
    value: Any, field: str, where: str, *, allowed: Iterable[str], required: Iterable[str] = ()
) -> None:
    """Refuse what is no object, lacks a required field or has an unknown one."""
    allowed = tuple(allowed)
    if not isinstance(value, dict):
        fields = ", ".join(allowed)
        raise DataError(
            f"{where}, {field}: found {_shown(value)}; expected an object with the fields {fields}"
        )
    for missing in (name for name in required if name not in value):
        raise DataError(f"{where}, {field}: lacks the field {missing!r}; found: {', '.join(value) or 'none'}")
    for unknown in (name for name in value if name not in allowed):
        raise DataError(f"{where}, {field}: unknown field {unknown!r}; expected: {', '.join(allowed)}")


def _refuse(where: str, field: str, value: Any, expected: str) -> NoReturn:
    raise DataError(f"{where}, field {field}: found {_shown(value)}; expected {expected}")


def _shown(value: Any) -> str:
    """The value as JSON, cut to fit a message."""
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else shown[:60] + "..."
