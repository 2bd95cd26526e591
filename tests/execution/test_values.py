"""Values of functions: their encoding, their comparison, and their text."""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.execution.inside.values import MAX_DEPTH, decode, encode, tree_of
from rlef_lightning.execution.literals import literal_of, read_literal, write_literal
from rlef_lightning.execution.values import key_of, values_match
from rlef_lightning.types import OutputRule

RULE = OutputRule()
EXACT = OutputRule(absolute_tolerance=0.0, relative_tolerance=0.0)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary()
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any, rule: OutputRule = RULE) -> bool:
    return values_match(tree_of(left), tree_of(right), rule)


def has_nan(value: Any) -> bool:
    return "nan" in repr(value)


@given(PLAIN)
def test_values_survive_their_encoding(value: Any) -> None:
    back = decode(encode(value))
    assert same(back, value, EXACT)
    assert type(back) is type(value)


@given(PLAIN)
def test_values_survive_their_literal(value: Any) -> None:
    back = read_literal(write_literal(value))
    assert same(back, value, EXACT)
    assert type(back) is type(value)


@given(PLAIN)
def test_a_value_matches_itself(value: Any) -> None:
    assert same(value, value, EXACT)


@given(PLAIN, PLAIN)
def test_two_values_match_when_python_says_so(left: Any, right: Any) -> None:
    if not has_nan((left, right)):
        assert same(left, right, EXACT) == (left == right)


@given(HASHABLE, HASHABLE)
def test_keys_are_equal_when_values_are(left: Any, right: Any) -> None:
    if not has_nan((left, right)):
        assert (key_of(tree_of(left)) == key_of(tree_of(right))) == (left == right)


@pytest.mark.parametrize(
    ("found", "expected", "wanted"),
    [
        (3, 3.0, True),
        (True, 1, True),
        (False, 0.0, True),
        (1, True, True),
        (None, 0, False),
        (None, False, False),
        ("3", 3, False),
        (b"a", "a", False),
        ([1, 2], (1, 2), False),
        ([(1, 2)], [[1, 2]], False),
        ({1}, frozenset({1}), True),
        ([1], {1}, False),
        ({1: [2.0000001]}, {1: [2.0]}, True),
        ({1: 2}, {1: 2, 3: 4}, False),
        ({1.0: 2}, {True: 2}, True),
        (0.30000000000000004, 0.3, True),
        (0.3001, 0.3, False),
        (1000000.5, 1000000.0, True),  # relative
        (3.0000001, 3, False),  # an expected integer is exact
        (2**80, float(2**80), True),
        (2**80 + 1, 2**80, False),
        (10**400, 1e300, False),
        (float("inf"), float("inf"), True),
        (float("inf"), float("-inf"), False),
        (float("nan"), float("nan"), True),
        (float("nan"), 0.0, False),
        ([float("nan")], [float("nan")], True),
        (1 + 1e-9j, 1 + 0j, True),
        (1j, 1 + 0j, False),
        ({0.1 + 0.2}, {0.3}, False),  # no tolerance in a set
        ([], (), False),
        ([], [[]], False),
        ([1, 2], [1], False),
        ([1], [1, 2], False),
        (Counter("aab"), {"a": 2, "b": 1}, True),
        (OrderedDict(a=1), {"a": 1}, True),
        (defaultdict(int, a=1), {"a": 1}, True),
        (range(3), [0, 1, 2], False),
    ],
)
def test_equality(found: Any, expected: Any, wanted: bool) -> None:
    assert same(found, expected) is wanted


def test_integers_may_be_compared_as_floats() -> None:
    assert same(3.0000001, 3, OutputRule(integers_as_floats=True))
    assert same(2**53, 2**53 - 1, OutputRule(integers_as_floats=True, absolute_tolerance=1.0))


def test_integers_that_doubles_cannot_tell_apart_are_exact() -> None:
    rule = OutputRule(integers_as_floats=True)
    assert not same(2**53 + 1, 2**53, rule)
    assert not same([2**80], [2**80 + 1], rule)
    assert same(float(2**80), 2**80 + 1, rule)  # the found number is no integer


def test_what_is_nested_too_deep_is_opaque() -> None:
    fits: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        fits = [fits]
    assert same(fits, fits)
    assert not same([fits], [fits])


def test_numpy_numbers_and_arrays_are_plain() -> None:
    numpy = pytest.importorskip("numpy")
    assert tree_of(numpy.float64(0.5)) == 0.5
    assert tree_of(numpy.int32(7)) == 7
    assert tree_of(numpy.bool_(True)) is True
    assert tree_of(numpy.array([[1, 2], [3, 4]])) == ["list", ["list", 1, 2], ["list", 3, 4]]
    assert tree_of(numpy.longdouble(1)) == ["opaque", "longdouble"]


@pytest.mark.parametrize(
    "text",
    [
        "inf",
        "-inf",
        "[nan]",
        "set()",
        "frozenset()",
        "frozenset({1, 2})",
        "(1+2j)",
        "(1-infj)",
        "-5",
        "b'a'",
        "()",
    ],
)
def test_literals_beyond_those_of_ast(text: str) -> None:
    assert write_literal(read_literal(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "f()", "1 + 1", "...", "[*a]", "{**a}", "-'a'", "~1", "not 1", "set([1])", "frozenset(a)",
        "(", "1; 2", "[" * 9999, "lambda: 0", "f'{1}'", "{[]}",
    ],
)  # fmt: skip
def test_everything_else_is_no_literal(text: str) -> None:
    with pytest.raises(ValueError):
        read_literal(text)


def test_long_integers_are_written_in_base_16() -> None:
    number = 7**9000
    assert write_literal([number, -number]) == f"[{hex(number)}, {hex(-number)}]"
    assert read_literal(write_literal(number)) == number
    assert same(number, number)
    assert not same(number, number + 1)


def test_a_beginning_is_the_beginning_of_the_whole() -> None:
    value = [("a" * 50, {1: b"x" * 50}), {2.5}, None] * 20
    for chars in (0, 1, 7, 60, 200, 10_000):
        assert literal_of(tree_of(value), chars) == repr(value)[:chars]


def test_literals_are_read_in_several_threads_at_once() -> None:
    text = "[" + ",".join("[[1,(2,3)],{'a':[4]}]" for _ in range(300)) + "]"
    read: list[object] = []

    def give_way(phase: str, info: dict[str, int]) -> None:
        """Python code in the middle of a parse: the moment at which threads change places."""
        sum(range(50))

    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(give_way)
    gc.set_threshold(50)
    sys.setswitchinterval(1e-5)
    try:
        threads = [
            threading.Thread(target=lambda: read.extend(read_literal(text) for _ in range(5)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(give_way)
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
    assert read == [[[[1, (2, 3)], {"a": [4]}]] * 300] * 20
