"""Tasks of HumanEval+ and MBPP+ that have several right answers -> the source of a checker.

EvalPlus treats the same tasks specially. Some ask for items in any order, some for a text or its absence,
in some the statement can be read in two ways, and find_zero has no one root.
"""

from __future__ import annotations

_FRAME = """\
import ast
import math
import sys

NAMES = {"inf": math.inf, "nan": math.nan, "set": set, "frozenset": frozenset, "__builtins__": {}}


def read(text):
    return eval(compile(ast.parse(text.strip(), mode="eval"), "value", "eval"), NAMES)


__RIGHT__

with open(sys.argv[1]) as input_file, open(sys.argv[2]) as answer_file:
    arguments, expected = read(input_file.read()), read(answer_file.read())
try:
    accepted = right(arguments, expected, sys.stdin.read().strip())
except Exception:
    accepted = False
sys.exit(42 if accepted else 43)
"""

_SAME_ITEMS = """\
def right(arguments, expected, text):
    return set(read(text)) == set(expected)"""

_FOUND_OR_NOT = """\
def right(arguments, expected, text):
    return (text == "True") == expected if text in ("True", "False") else (text != "None") == expected"""

_ANYTHING = """\
def right(arguments, expected, text):
    return True"""

_EXPECTED_OR_ZERO = """\
def right(arguments, expected, text):
    return read(text) in (expected, 0)"""

_ANY_ROOT = """\
def right(arguments, expected, text):
    root = read(text)
    value = sum(factor * math.pow(root, power) for power, factor in enumerate(arguments[0]))
    return abs(value) <= TOLERANCE"""

_EITHER_HEIGHT = """\
def right(arguments, expected, text):
    side, height = arguments
    upright = round(side**2 + 2 * side * math.sqrt((side / 2) ** 2 + height**2))
    found = read(text)
    return found == expected or abs(found - upright) <= TOLERANCE"""

_PADDED_DIGITS = """\
def right(arguments, expected, text):
    width = max(len(str(number)) for number in arguments)
    one, other = (str(number).zfill(width) for number in arguments)
    padded = sum(abs(int(a) - int(b)) for a, b in zip(one, other))
    return read(text) in (expected, padded)"""

FOUND_OR_NOT = frozenset({"check_str", "text_match_three", "text_starta_endb"})
"""Functions whose value matters only as None or not None."""
_SAME_ITEMS_TASKS = (
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
)  # fmt: skip
_BY_FUNCTION = {
    **dict.fromkeys(_SAME_ITEMS_TASKS, _SAME_ITEMS),
    **dict.fromkeys(FOUND_OR_NOT, _FOUND_OR_NOT),
    "are_equivalent": _ANYTHING,
    "sum_div": _EXPECTED_OR_ZERO,
    "surface_Area": _EITHER_HEIGHT,
    "digit_distance_nums": _PADDED_DIGITS,
}


def checker_for(task_id: str, function: str, tolerance: float) -> str:
    """The checker of a task; empty where its values are simply compared."""
    if task_id.startswith("Mbpp/"):
        right = _BY_FUNCTION.get(function, "")
    else:
        right = _ANY_ROOT if function == "find_zero" else ""
    return _FRAME.replace("__RIGHT__", right.replace("TOLERANCE", repr(tolerance))) if right else ""
