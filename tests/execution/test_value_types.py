"""Which objects of a function are values: plain ones, what compares as they do, fractions and decimals."""

from __future__ import annotations

import collections
import enum
import json
from collections import Counter, OrderedDict, UserDict
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.execution.inside.values import tree_of
from rlef_lightning.execution.literals import literal_of, write_literal
from rlef_lightning.execution.values import values_match
from rlef_lightning.types import OutputRule

RULE = OutputRule()
EXACT = OutputRule(absolute_tolerance=0.0, relative_tolerance=0.0)


def same(left: Any, right: Any, rule: OutputRule = RULE) -> bool:
    return values_match(tree_of(left), tree_of(right), rule)


class AlwaysEqual:
    """A cheat."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Number(int):
    """A cheat that calls itself an int."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Pair(tuple[int, int]):
    """A cheat that calls itself a tuple."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Heir(Number):
    """A cheat by inheritance."""


@pytest.mark.parametrize("value", [AlwaysEqual(), Number(7), [Number(7)], Pair((1, 2)), Heir(7)])
def test_what_compares_in_its_own_way_is_no_value(value: Any) -> None:
    assert "opaque" in json.dumps(tree_of(value))
    for expected in (7, [7], "7", (1, 2), value):
        assert not same(value, expected)
    with pytest.raises(ValueError):  # no key has this form
        same({Number(7): 1}, {7: 1})


class Liar(list[int]):
    """Compares as a list; all else about it is a lie."""

    def __iter__(self) -> Any:
        return iter([7])

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        return 7


class Shouting(str):
    def __str__(self) -> str:
        return "7"

    def __repr__(self) -> str:
        return "7"


class Side(enum.IntEnum):
    LEFT = 7


class Name(enum.StrEnum):
    SEVEN = "7"


class Alone(enum.Enum):
    SEVEN = 7


class Record(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.namedtuple("P", "a b")(1, 2), (1, 2)),
        (Record(1, 2), (1, 2)),
        ([Record(1, 2)], [(1, 2)]),
        (Side.LEFT, 7),
        (Name.SEVEN, "7"),
        (type("str", (str,), {})("7"), "7"),
        (type("float", (float,), {})(0.5), 0.5),
        (type("complex", (complex,), {})(1j), 1j),
        (type("bytes", (bytes,), {})(b"7"), b"7"),
        (bytearray(b"7"), b"7"),
        (type("set", (set,), {})({7}), {7}),
        (type("frozenset", (frozenset,), {})({7}), {7}),
        (type("dict", (dict,), {})({1: [Record(1, 2)]}), {1: [(1, 2)]}),
        (type("Counter", (Counter,), {})("aab"), {"a": 2, "b": 1}),
        (type("OrderedDict", (OrderedDict,), {})(a=1), {"a": 1}),
        (Liar([1, 2]), [1, 2]),
        (Shouting("8"), "8"),
        ({1: 2}.keys(), {1}),
        ({1: 2}.items(), {(1, 2)}),
        (OrderedDict({1: 2}).keys(), {1}),
        ({Record(1, 2): Side.LEFT}, {(1, 2): 7}),
    ],
)
def test_a_subclass_that_compares_as_a_plain_type_is_one(value: Any, plain: Any) -> None:
    assert value == plain
    assert same(value, plain)
    assert "opaque" not in json.dumps(tree_of(value))
    for other in ((1, 3), [7], 8, "7" if plain != "7" else "8", {2}, None):
        assert not same(value, other)


@pytest.mark.parametrize(
    ("value", "plain"), [(Alone.SEVEN, 7), ({1: 2}.values(), [2]), (UserDict({7: 7}), [7])]
)
def test_what_python_does_not_call_equal_is_not(value: Any, plain: Any) -> None:
    assert value != plain
    assert not same(value, plain)


def test_a_view_of_items_that_no_set_can_hold_equals_nothing() -> None:
    with pytest.raises(ValueError):
        same({1: [2]}.items(), {(1, 2)})


FRACTIONS = st.fractions(max_denominator=64) | st.floats(allow_nan=False, allow_infinity=False).map(Fraction)
DECIMALS = st.decimals(allow_nan=False, places=2) | st.floats(allow_nan=False).map(Decimal)
RATIONAL = FRACTIONS | DECIMALS
NUMBERS = st.integers() | st.integers(-9, 9).map(lambda n: n / 4) | st.floats(allow_nan=False)
ANY_NUMBER = NUMBERS | RATIONAL | st.booleans() | st.integers(-99, 99).map(lambda n: complex(n / 4))


@given(RATIONAL, ANY_NUMBER)
def test_fractions_and_decimals_equal_what_python_says(left: Any, right: Any) -> None:
    assert same(left, right, EXACT) == (left == right)
    assert same(right, left, EXACT) == (left == right)
    assert same({left}, {right}) == ({left} == {right})


@given(RATIONAL)
def test_fractions_and_decimals_equal_the_plain_numbers_of_their_size(value: Any) -> None:
    if abs(value) < 1e300:
        assert same(value, float(value), EXACT) == (value == float(value))
        assert same({value}, {float(value)}) == (value == float(value))
        assert same(value, int(value)) == (value == int(value))


@pytest.mark.parametrize(
    ("found", "expected", "wanted"),
    [
        (Fraction(1, 2), 0.5, True),
        (Decimal("0.5"), 0.5, True),
        (Decimal("7.00"), 7, True),
        (Fraction(14, 2), True, False),
        (Fraction(1), True, True),
        (Decimal("0.1"), 0.1, True),  # within the tolerance of an expected float
        (Fraction(1, 3), 0.3333, False),
        (Decimal("7.0000001"), 7, False),  # an expected integer is exact
        ({Decimal("0.1")}, {0.1}, False),  # no tolerance in a set
        (Decimal("-0"), 0, True),
        (Decimal("-0.0"), -0.0, True),
        (Decimal("nan"), float("nan"), True),
        (Decimal("sNaN"), float("nan"), False),
        (Decimal("inf"), float("inf"), True),
        (Decimal("-inf"), float("inf"), False),
        (Decimal("1e400"), float("inf"), False),
        (Decimal("1e400"), 10**400, True),
        (Decimal("1e999999"), 7, False),
        (Fraction(1, 7**9000), 0.0, False),  # longer than a fraction may be
        (Fraction(10**500, 3), 1.5, False),
        (Decimal("0.5"), "0.5", False),
    ],
)
def test_equality_of_fractions_and_decimals(found: Any, expected: Any, wanted: bool) -> None:
    assert same(found, expected) is wanted


def test_a_zero_tolerance_tells_a_decimal_from_the_nearest_float() -> None:
    assert Decimal("0.1") != 0.1
    assert not same(Decimal("0.1"), 0.1, EXACT)
    assert same(Decimal("0.5"), 0.5, EXACT)


@pytest.mark.parametrize(
    "tree",
    [
        ["fraction", "0x1", "0x0"], ["fraction", "0x1", "-0x2"], ["fraction", 1, 2], ["fraction", "0x1"],
        ["fraction", "0x" + "1" * 9999, "0x1"], ["decimal", "1e999999999"], ["decimal", "1e-999999999"],
        ["decimal", "nan"], ["decimal", "sNaN"], ["decimal", "Infinity"], ["decimal", "x"], ["decimal", 1],
        ["decimal", "1" * 9999],
    ],
)  # fmt: skip
def test_a_forged_number_is_malformed(tree: Any) -> None:
    with pytest.raises(ValueError):
        values_match(tree, 7, RULE)
    with pytest.raises(ValueError):
        literal_of(tree)


def test_fractions_and_decimals_are_shown_as_python_shows_them() -> None:
    value = [Fraction(1, 2), Decimal("0.50"), Record(1, 2), Side.LEFT]
    assert literal_of(tree_of(value)) == "[Fraction(1, 2), Decimal('0.50'), (1, 2), 7]"
    with pytest.raises(ValueError):
        write_literal(value)
