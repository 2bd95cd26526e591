"""The comparator against hand-made cases and a slow oracle in exact arithmetic."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.execution import matches
from rlef_lightning.types import CODECONTESTS_RULE, OutputRule

EXACT_SPACE = OutputRule(exact_whitespace=True)


@pytest.mark.parametrize(
    ("stdout", "expected", "rule", "equal"),
    [
        (b"1 2\n3\n", "1\t2 3", OutputRule(), True),
        (b"1 2", "1 2\n", EXACT_SPACE, False),
        (b"1 2\n", "1 2\n", EXACT_SPACE, True),
        (b"1 2 3", "1 2", OutputRule(), False),
        (b"1 2", "1 2 3", OutputRule(), False),
        (b"", "", OutputRule(), True),
        (b"", "1", OutputRule(), False),
        (b"YES", "yes", OutputRule(), False),
        (b"YES", "yes", OutputRule(ignore_case=True), True),
        (b"Yes\n", "yES\n", OutputRule(ignore_case=True, exact_whitespace=True), True),
        (b"7.0", "7", OutputRule(), False),
        (b"7.0", "7", CODECONTESTS_RULE, True),
        (b"+7", "7", OutputRule(), False),
        (b"9007199254740993", "9007199254740992", OutputRule(), False),
        # int(n * (n + 1) / 2) and n * (n + 1) // 2 for n = 123456789012: one double, and not one number
        (b"7620789376638470062080", "7620789376638470362578", CODECONTESTS_RULE, False),
        (b"9007199254740993", "9007199254740992", CODECONTESTS_RULE, False),
        (b"9007199254740992", "9007199254740993", CODECONTESTS_RULE, False),
        (b"-9007199254740993", "-9007199254740992", CODECONTESTS_RULE, False),
        (b"9007199254740991", "9007199254740992", CODECONTESTS_RULE, False),
        (b"9007199254740991", "9007199254740992", OutputRule(integers_as_floats=True), True),  # up to 2**53
        (b"9007199254740993", "9007199254740992", OutputRule(integers_as_floats=True), False),
        (b"+009007199254740993", "9007199254740993", CODECONTESTS_RULE, True),
        (b"9007199254740993.0", "9007199254740992", CODECONTESTS_RULE, True),  # no integer: as DeepMind
        (b"9007199254740993", "9007199254740992.0", CODECONTESTS_RULE, True),
        (b"1e18", "1000000000000000000", CODECONTESTS_RULE, True),
        (b"1" * 399, "1" * 398 + "2", CODECONTESTS_RULE, False),
        (b"0" + b"1" * 398, "1" * 398, CODECONTESTS_RULE, True),  # too large for a double
        (b"7", "7.0", OutputRule(), True),
        (b"0.3333333", "0.33333333333", OutputRule(), True),
        (b"0.3333", "0.33333333333", OutputRule(), False),
        (b"1000000.5", "1000000.0", OutputRule(), True),  # 5e-7 relative
        (b"1000000.5", "1000000.0", OutputRule(relative_tolerance=0.0), False),
        (b"1e3", "1000.0", OutputRule(), True),
        (b"1_000.0", "1000.0", OutputRule(), False),
        (b"nan", "nan", OutputRule(), True),
        (b"nan", "1.5", OutputRule(), False),
        (b"NaN", "nan", OutputRule(), False),
        (b"inf", "1e400", OutputRule(), False),
        (b"1e400", "2e400", OutputRule(), False),
        (b"0x10", "16.0", OutputRule(), False),
        ("١".encode(), "1.0", OutputRule(), False),  # a digit, but not ASCII
        (b"1\xa02", "1 2", OutputRule(), False),  # no ASCII white space
        ("1\u00a02".encode(), "1 2", OutputRule(), False),
        (b"a\xff", "a\ufffd", OutputRule(), False),  # bytes that are no UTF-8 equal nothing
        ("é".encode(), "é", OutputRule(), True),
        ("É".encode(), "é", OutputRule(ignore_case=True), True),
        (b"1" * 500 + b".5", "1" * 500 + ".6", OutputRule(), False),
    ],
)
def test_cases(stdout: bytes, expected: str, rule: OutputRule, equal: bool) -> None:
    assert matches(stdout, expected, rule) is equal


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def oracle(stdout: str, expected: str, rule: OutputRule) -> bool:
    """The rule once more, token after token in exact fractions; without exact_whitespace."""
    if rule.ignore_case:
        stdout, expected = stdout.lower(), expected.lower()
    separators = re.compile(r"[ \t\n\r\x0b\x0c]+")
    found = [token for token in separators.split(stdout) if token]
    wanted = [token for token in separators.split(expected) if token]
    if len(found) != len(wanted):
        return False
    for one, other in zip(found, wanted, strict=True):
        if one == other:
            continue
        integer = re.fullmatch(r"[+-]?[0-9]+", other)
        if integer and not rule.integers_as_floats:
            return False
        if not (NUMBER.fullmatch(one) and NUMBER.fullmatch(other)):
            return False
        whole = integer and re.fullmatch(r"[+-]?[0-9]+", one)
        if whole and max(abs(int(one)), abs(int(other))) > 2**53:
            if int(one) != int(other):
                return False
            continue
        distance = abs(Fraction(one) - Fraction(other))
        if distance > max(
            Fraction(rule.absolute_tolerance), Fraction(rule.relative_tolerance) * abs(Fraction(other))
        ):
            return False
    return True


# Decimals with few digits, so that a double holds each closely and no difference lies within a
# rounding error of a tolerance (which is a power of two here).
NUMBERS = st.builds(
    lambda whole, quarter, form: form.format(whole + quarter / 4),
    st.integers(-50, 50),
    st.integers(0, 3),
    st.sampled_from(["{:.2f}", "{:g}", "{:.4e}", "{:+.3f}"]),
)
TOKENS = st.one_of(
    NUMBERS,
    st.integers(-9, 9).map(str),
    st.integers(2**53 - 2, 2**53 + 2).map(str),
    st.integers(-(2**60) - 1, 1 - 2**60).map(str),
    st.sampled_from(
        ["yes", "YES", "nan", "NaN", "inf", "-inf", "1_0", "0x1", "1e", ".", "-", "1.", ".5", "é"]
    ),
)
SPACES = st.sampled_from([" ", "\n", "\t", "  ", "\r\n", "\x0b", "\x0c"])
TEXTS = st.lists(st.tuples(TOKENS, SPACES), max_size=4).map(lambda parts: "".join(a + b for a, b in parts))
RULES = st.builds(
    OutputRule,
    ignore_case=st.booleans(),
    absolute_tolerance=st.sampled_from([0.0, 2.0**-20, 0.25, 1.0]),
    relative_tolerance=st.sampled_from([0.0, 2.0**-20, 0.125]),
    integers_as_floats=st.booleans(),
)


@given(TEXTS, TEXTS, RULES)
def test_agrees_with_the_oracle(stdout: str, expected: str, rule: OutputRule) -> None:
    assert matches(stdout.encode(), expected, rule) is oracle(stdout, expected, rule)


@given(st.lists(TOKENS, min_size=1, max_size=3), st.lists(TOKENS, min_size=1, max_size=3), RULES)
def test_agrees_with_the_oracle_on_equal_counts(a: list[str], b: list[str], rule: OutputRule) -> None:
    a, b = a[: len(b)], b[: len(a)]
    assert matches(" ".join(a).encode(), " ".join(b), rule) is oracle(" ".join(a), " ".join(b), rule)


@given(st.text(), RULES, st.booleans())
def test_every_text_equals_itself(text: str, rule: OutputRule, exact: bool) -> None:
    assert matches(text, text, rule)
    assert matches(text.encode(), text, OutputRule(exact_whitespace=exact))


@given(st.binary(), st.text(max_size=20), RULES)
def test_never_raises(stdout: bytes, expected: str, rule: OutputRule) -> None:
    assert matches(stdout, expected, rule) in (True, False)


@given(TEXTS, TEXTS, RULES, SPACES)
def test_white_space_around_does_not_matter(stdout: str, expected: str, rule: OutputRule, space: str) -> None:
    assert matches(stdout, expected, rule) is matches(space + stdout + space, expected + space, rule)


@given(TEXTS, TOKENS, RULES)
def test_a_prefix_is_never_enough(text: str, token: str, rule: OutputRule) -> None:
    assert not matches(text, f"{text} {token}", rule)
