"""(stdout, expected output, rule) -> bool. Pure; knows nothing of processes, and never raises.

Outputs stay bytes, so that bytes that are no UTF-8 equal themselves only. See `OutputRule` for the rule.
"""

from __future__ import annotations

import math
import re

from rlef_lightning.types import OutputRule

MAX_NUMBER_CHARS = 400
"""Longer tokens are compared as text only; no double needs more characters."""
_INTEGER = re.compile(rb"[+-]?[0-9]+")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


EXACT_DOUBLES = 1 << 53
"""Up to here each integer is a double of its own."""


def matches(stdout: bytes | str, expected: str, rule: OutputRule) -> bool:
    """True when the output is right by the rule.

    Example: matches(b"0.3333333\\n", "0.33333333", OutputRule()) is True.
    """
    found_bytes, expected_bytes = _normal(stdout, rule), _normal(expected, rule)
    if rule.exact_whitespace:
        return found_bytes == expected_bytes
    found_tokens, expected_tokens = found_bytes.split(), expected_bytes.split()  # ASCII white space
    if len(found_tokens) != len(expected_tokens):
        return False
    return all(
        found == wanted or _numbers_match(found, wanted, rule)
        for found, wanted in zip(found_tokens, expected_tokens, strict=True)
    )


def _normal(text: bytes | str, rule: OutputRule) -> bytes:
    """The text as bytes, lower-cased where the rule says so."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if not rule.ignore_case:
        return text
    return text.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")


def _numbers_match(found: bytes, expected: bytes, rule: OutputRule) -> bool:
    """True when both are numbers within the tolerances, and the rule lets this one be a number."""
    if max(len(found), len(expected)) > MAX_NUMBER_CHARS:
        return False
    if _INTEGER.fullmatch(expected) and not rule.integers_as_floats:
        return False  # equal text was accepted before
    if not (_NUMBER.fullmatch(found) and _NUMBER.fullmatch(expected)):
        return False  # the expression keeps out nan, inf and 1_000, which float() would take
    integers = _INTEGER.fullmatch(found) and _INTEGER.fullmatch(expected)
    if integers and doubles_cannot_tell(int(found), int(expected)):
        return int(found) == int(expected)
    found_value, expected_value = float(found), float(expected)
    if math.isinf(found_value) or math.isinf(expected_value):
        return False  # too large for a double: only equal text is equal
    difference = abs(found_value - expected_value)
    return difference <= rule.absolute_tolerance or difference <= rule.relative_tolerance * abs(
        expected_value
    )


def doubles_cannot_tell(found: int, expected: int) -> bool:
    """True for integers that are compared exactly even as numbers with tolerances.

    Beyond 2**53 different integers are the same double: int(n * (n + 1) / 2) would pass for the right sum.
    """
    return max(abs(found), abs(expected)) > EXACT_DOUBLES
