"""(a function's encoded value, the expected one, rule) -> bool. Pure; the counterpart of compare.py.

Works on the trees of inside/values.py and never builds the program's sets and dicts: their keys are made
text first, whose hashes nobody outside can steer, so that no value can make the comparison slow.
Malformed trees raise ValueError, TypeError or RecursionError.
"""

from __future__ import annotations

import math
from fractions import Fraction

from rlef_lightning.execution.compare import doubles_cannot_tell
from rlef_lightning.execution.inside.values import Number, Tree, number_of
from rlef_lightning.types import OutputRule

_NUMBER_TAGS = ("int", "float", "complex", "fraction", "decimal")
_SETS = ("set", "frozenset")


def values_match(found: Tree, expected: Tree, rule: OutputRule) -> bool:
    """True when the values are equal as Python's == has it, but for tolerant floats and equal NaNs.

    So 1, 1.0 and True are equal; a list and a tuple are not, and a set equals a frozenset. Expected floats
    and complex numbers are compared within the rule's tolerances, expected integers exactly unless
    `integers_as_floats`. Items of sets and keys of dicts are compared exactly.
    """
    wanted = as_number(expected)
    if wanted is not None:
        value = as_number(found)
        return value is not None and numbers_match(value, wanted, rule)
    if isinstance(expected, list):
        return isinstance(found, list) and _containers_match(found, expected, rule)
    return type(found) is type(expected) and bool(found == expected)


def _containers_match(found: list[Tree], expected: list[Tree], rule: OutputRule) -> bool:
    (tag, *items), (wanted_tag, *wanted) = found, expected
    if wanted_tag in _SETS:
        return tag in _SETS and set(map(key_of, items)) == set(map(key_of, wanted))
    if tag != wanted_tag or tag == "opaque":  # nothing is known to equal what is opaque
        return False
    if tag == "dict":
        return _dicts_match(items, wanted, rule)
    return len(items) == len(wanted) and all(
        values_match(item, other, rule) for item, other in zip(items, wanted, strict=True)
    )


def _dicts_match(found: list[Tree], expected: list[Tree], rule: OutputRule) -> bool:
    values, wanted = _by_key(found), _by_key(expected)
    return values.keys() == wanted.keys() and all(
        values_match(values[key], wanted[key], rule) for key in wanted
    )


def _by_key(items: list[Tree]) -> dict[str, Tree]:
    return {key_of(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def as_number(tree: Tree) -> Number | None:
    """The number that the tree stands for, or None."""
    if isinstance(tree, int | float):
        return tree
    if isinstance(tree, list) and tree and tree[0] in _NUMBER_TAGS:
        return number_of(tree)
    return None


def numbers_match(found: Number, expected: Number, rule: OutputRule) -> bool:
    """True for equal numbers, two NaNs, and numbers within the tolerances where the rule lets them be."""
    if found == expected:
        return True
    if isinstance(expected, int) and not rule.integers_as_floats:
        return False
    if isinstance(expected, int) and isinstance(found, int) and doubles_cannot_tell(found, expected):
        return False
    try:
        if Fraction in (type(found), type(expected)) and complex not in (type(found), type(expected)):
            return _ratios_match(found, expected, rule)  # type: ignore[arg-type]
        one, other = complex(found), complex(expected)
    except OverflowError:
        return False  # beyond any double: only the same number is equal
    return _floats_match(one.real, other.real, rule) and _floats_match(one.imag, other.imag, rule)


def _ratios_match(found: int | float | Fraction, expected: int | float | Fraction, rule: OutputRule) -> bool:
    """`_floats_match` in exact arithmetic: a fraction is not the double next to it. Raises OverflowError."""
    if math.isnan(found) or math.isnan(expected):
        return False
    difference, size = abs(Fraction(found) - Fraction(expected)), abs(Fraction(expected))
    return difference <= rule.absolute_tolerance or difference <= Fraction(rule.relative_tolerance) * size


def _floats_match(found: float, expected: float, rule: OutputRule) -> bool:
    if found == expected or (math.isnan(found) and math.isnan(expected)):
        return True
    if not (math.isfinite(found) and math.isfinite(expected)):
        return False
    difference = abs(found - expected)
    return difference <= rule.absolute_tolerance or difference <= rule.relative_tolerance * abs(expected)


def key_of(tree: Tree) -> str:
    """A text that two hashable values share exactly when they are equal."""
    number = as_number(tree)
    if number is not None:
        return _key_of_number(number)
    if tree is None or isinstance(tree, str):
        return repr(tree)
    tag, *items = tree
    if tag == "tuple":
        return f"({','.join(map(key_of, items))})"
    if tag in ("set", "frozenset"):
        return f"{{{','.join(sorted(set(map(key_of, items))))}}}"
    if tag == "bytes":
        return f"b{items[0]!r}"
    raise ValueError(f"{tag!r} cannot be an item of a set or a key of a dict")


def _key_of_number(number: Number) -> str:
    if isinstance(number, complex):
        if number.imag:
            return f"{_key_of_number(number.real)}+{_key_of_number(number.imag)}j"
        number = number.real
    if isinstance(number, Fraction):
        return _key_of_fraction(number)
    if isinstance(number, float) and not number.is_integer():
        return number.hex()  # also inf and nan
    return hex(int(number))


def _key_of_fraction(number: Fraction) -> str:
    above, below = number.as_integer_ratio()
    if below == 1:
        return hex(above)
    try:
        nearest = above / below
    except OverflowError:  # beyond any double
        nearest = math.inf
    if math.isfinite(nearest) and Fraction(nearest) == number:
        return nearest.hex()
    return f"{above:x}/{below:x}"
