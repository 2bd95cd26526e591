"""A function's arguments and its value <-> JSON that names every type. Plain values have a form, others none.

An object of a class that compares as a plain type does (a namedtuple, an IntEnum) is the plain value in it,
read by that type's own methods. One with a comparison of its own is none, whatever it claims to equal. What
arrives outside is compared there (execution/values.py); nothing here knows an expected value.

    null, true, 7, 1.5, "text"        themselves
    ["list", ...], ["tuple", ...], ["set", ...], ["frozenset", ...], ["dict", key, value, key, value, ...]
    ["int", "0x..."] beyond 64 bits   ["float", "nan" | "inf" | "-inf"]   ["complex", real, imaginary]
    ["fraction", "0x1", "0x2"]        ["decimal", "0.5"]
    ["bytes", "00ff"]                 ["opaque", name of the type]: whatever has no form
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

Number = int | float | complex | Fraction
Tree = Any
"""What `json.loads` returns: None, bool, int, float, str, or a list that begins with a tag."""
MAX_DEPTH = 100
"""Levels of nesting; what lies deeper is opaque."""
VALUE_BYTES = 8 << 20
"""Largest encoded value; the output limit holds where it is lower. Bounds the work of who compares."""
MAX_DIGITS = 4000
"""Of fractions and decimals, exponents counted in; longer ones are opaque. Bounds the comparison's work."""
_VIEWS: tuple[type, ...] = (
    type({}.keys()),
    type({}.items()),
    type(OrderedDict().keys()),
    type(OrderedDict().items()),
)
_SEQUENCES: dict[type, str] = {
    list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", **dict.fromkeys(_VIEWS, "set"),
}  # fmt: skip
_MAPPINGS = (dict, Counter, OrderedDict, defaultdict)  # the others equal a dict of the same items
_SCALARS = (type(None), bool, str)
_MAKERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_dumps, _loads = json.dumps, json.loads  # a program may have replaced them in the module


def _fraction(value: Fraction) -> Tree:
    parts = (value.numerator, value.denominator)
    if not all(type(part) is int and part.bit_length() <= 3 * MAX_DIGITS for part in parts):
        return ["opaque", "Fraction"]
    return ["fraction", *map(hex, parts)]


def _decimal(value: Decimal) -> Tree:
    if value.is_snan() or (value.is_finite() and not _is_short(value)):
        return ["opaque", "Decimal"]
    return ["decimal", Decimal.__str__(value)] if value.is_finite() else tree_of(float(value))


def _is_short(value: Decimal) -> bool:
    _, digits, exponent = value.as_tuple()
    return isinstance(exponent, int) and len(digits) + abs(exponent) <= MAX_DIGITS


_ENCODERS: dict[type, Callable[[Any], Tree]] = {
    int: lambda value: value if -(1 << 63) <= value < 1 << 63 else ["int", hex(value)],
    float: lambda value: value if math.isfinite(value) else ["float", float.__repr__(value)],
    complex: lambda value: ["complex", tree_of(value.real), tree_of(value.imag)],
    bytes: lambda value: ["bytes", value.hex()],
    bytearray: lambda value: ["bytes", value.hex()],
    Fraction: _fraction,
    Decimal: _decimal,
}
_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: bytes.__bytes__,
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    **dict.fromkeys(_MAPPINGS, lambda value: dict(dict.items(value))),
}
"""Types whose subclasses may compare as they do, and what makes an object of such a class a plain value."""


def encode(value: object) -> bytes:
    """The value as JSON."""
    return _dumps(tree_of(value), separators=(",", ":")).encode()


def decode(data: bytes) -> Any:
    """The inverse of `encode`, for data that comes from outside; every call makes new objects."""
    return value_of(_loads(data))


def tree_of(value: Any, depth: int = 0) -> Tree:
    """The value in the form above."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind in _ENCODERS:
        return _ENCODERS[kind](value)
    if depth < MAX_DEPTH and kind in _SEQUENCES:
        return [_SEQUENCES[kind], *(tree_of(item, depth + 1) for item in value)]
    if depth < MAX_DEPTH and kind in _MAPPINGS:
        pairs = dict.items(value)
        return ["dict", *(tree_of(item, depth + 1) for pair in pairs for item in pair)]
    return _tree_of_numpy(value, depth)


def _tree_of_numpy(value: Any, depth: int) -> Tree:
    """A numpy number as the Python number, an array as the list of its items."""
    kind, numpy = type(value), sys.modules.get("numpy")
    if numpy is not None and kind.__module__ == "numpy" and isinstance(value, (numpy.generic, numpy.ndarray)):
        plain = value.tolist()
        if type(plain) is not kind:  # a longdouble has no Python counterpart
            return tree_of(plain, depth)
    return _tree_of_subclass(value, depth)


def _tree_of_subclass(value: Any, depth: int) -> Tree:
    """The plain value in an object whose class has its `==` from a plain type; anything else is opaque."""
    kind = type(value)
    base = next(one for one in kind.__mro__ if "__eq__" in vars(one))
    if base is kind or base not in _PLAIN:
        return ["opaque", kind.__name__]
    return tree_of(_PLAIN[base](value), depth)


def value_of(tree: Tree) -> Any:
    """The inverse of `tree_of`; an opaque value has none: ValueError."""
    if type(tree) is not list:
        return tree
    tag, *items = tree
    if tag in _MAKERS:
        return _MAKERS[tag](value_of(item) for item in items)
    if tag == "dict":
        return {value_of(key): value_of(item) for key, item in zip(items[::2], items[1::2], strict=True)}
    if tag == "bytes":
        return bytes.fromhex(items[0])
    return number_of(tree)


def number_of(tree: Tree) -> Number:
    """The number that a list with a number's tag stands for; ValueError for another."""
    match tree:
        case ["int", str(digits)]:
            return int(digits, 16)
        case ["float", "nan" | "inf" | "-inf" as name]:
            return float(name)
        case ["complex", real, imaginary]:
            return complex(_real(real), _real(imaginary))
        case ["fraction", str(above), str(below)] if max(len(above), len(below)) <= MAX_DIGITS:
            return Fraction(int(above, 16), _positive(int(below, 16)))
        case ["decimal", str(text)] if len(text) <= 2 * MAX_DIGITS:
            return _ratio(text)
    raise ValueError(f"no value: {str(tree)[:80]}")


def _positive(number: int) -> int:
    if number <= 0:
        raise ValueError("a denominator that is not above zero")
    return number


def _ratio(text: str) -> Fraction:
    """Exact; so it compares with other numbers as the decimal does."""
    try:
        value = Decimal(text)
    except ArithmeticError:
        raise ValueError("a malformed decimal") from None
    if not _is_short(value):
        raise ValueError("a decimal that is no number, or a long one")
    return Fraction(value)


def _real(tree: Tree) -> float:
    value = number_of(tree) if isinstance(tree, list) else tree
    if not isinstance(value, (int, float)):
        raise ValueError("a part of a complex number is no number")
    return float(value)
