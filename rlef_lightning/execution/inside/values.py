"""A function's arguments and its value <-> JSON that names every type. Plain values have a form, others none.

Types are taken exactly: an object that only claims to be equal, or to be a number, is none of these. What
arrives outside is compared there (execution/values.py); nothing here knows an expected value.

    null, true, 7, 1.5, "text"        themselves
    ["list", ...], ["tuple", ...], ["set", ...], ["frozenset", ...], ["dict", key, value, key, value, ...]
    ["int", "0x..."] beyond 64 bits   ["float", "nan" | "inf" | "-inf"]   ["complex", real, imaginary]
    ["bytes", "00ff"]                 ["opaque", name of the type]: whatever has no form
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

Tree = Any
"""What `json.loads` returns: None, bool, int, float, str, or a list that begins with a tag."""
MAX_DEPTH = 100
"""Levels of nesting; what lies deeper is opaque."""
VALUE_BYTES = 8 << 20
"""Largest encoded value; the output limit holds where it is lower. Bounds the work of who compares."""
_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_MAPPINGS = (dict, Counter, OrderedDict, defaultdict)  # the others equal a dict of the same items
_SCALARS = (type(None), bool, str)
_MAKERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_dumps, _loads = json.dumps, json.loads  # a program may have replaced them in the module


_ENCODERS: dict[type, Callable[[Any], Tree]] = {
    int: lambda value: value if -(1 << 63) <= value < 1 << 63 else ["int", hex(value)],
    float: lambda value: value if math.isfinite(value) else ["float", float.__repr__(value)],
    complex: lambda value: ["complex", tree_of(value.real), tree_of(value.imag)],
    bytes: lambda value: ["bytes", value.hex()],
}


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
    """A numpy number as the Python number, an array as the list of its items; anything else is opaque."""
    kind, numpy = type(value), sys.modules.get("numpy")
    if numpy is not None and kind.__module__ == "numpy" and isinstance(value, (numpy.generic, numpy.ndarray)):
        plain = value.tolist()
        if type(plain) is not kind:  # a longdouble has no Python counterpart
            return tree_of(plain, depth)
    return ["opaque", kind.__name__]


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


def number_of(tree: Tree) -> int | float | complex:
    """The number that a list with a number's tag stands for; ValueError for another."""
    match tree:
        case ["int", str(digits)]:
            return int(digits, 16)
        case ["float", "nan" | "inf" | "-inf" as name]:
            return float(name)
        case ["complex", real, imaginary]:
            return complex(_real(real), _real(imaginary))
    raise ValueError(f"no value: {str(tree)[:80]}")


def _real(tree: Tree) -> float:
    value = number_of(tree) if isinstance(tree, list) else tree
    if not isinstance(value, (int, float)):
        raise ValueError("a part of a complex number is no number")
    return float(value)
