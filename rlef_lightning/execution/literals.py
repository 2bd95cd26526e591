"""Python literals <-> values, and encoded values -> literals for readers and checkers.

Wider than `ast.literal_eval` by what `repr` writes for plain values: inf, nan, frozenset({1}).
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rlef_lightning.execution.inside.values import Tree, number_of, tree_of

_NAMES = {"inf": float("inf"), "nan": float("nan"), "infj": complex("infj"), "nanj": complex("nanj")}
_BRACKETS = {"list": ("[", "]"), "tuple": ("(", ")"), "set": ("{", "}"), "frozenset": ("frozenset({", "})")}
_PARSING = threading.Lock()
"""CPython 3.11 counts the depth of trees in one place for all threads, and raises SystemError when two build
one at the same time; large answers are handled in a thread of their own."""
_LONG_INTEGER = 10**4000
"""Longer ones are written in base 16: Python refuses to convert them, as that would take long."""


def read_literal(text: str) -> Any:
    """The value that the text stands for; ValueError when it is no literal of plain values."""
    try:
        with _PARSING:
            tree = ast.parse(text.strip(), mode="eval")
        return _value(tree.body)
    except (SyntaxError, RecursionError, MemoryError, OverflowError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def write_literal(value: Any) -> str:
    """The text for `read_literal`; ValueError for a value that has none.

    Example: write_literal((1, {"a": float("inf")})) == "(1, {'a': inf})"
    """
    text = literal_of(tree_of(value))
    read_literal(text)
    return text


def _value(node: ast.expr) -> Any:
    reader = _READERS.get(type(node))
    if reader is None:
        raise ValueError(f"no literal: {ast.unparse(node)[:80]!r}")
    return reader(node)


def _constant(node: ast.Constant) -> Any:
    if node.value is Ellipsis:
        raise ValueError("no literal: ...")
    return node.value


def _dict(node: ast.Dict) -> Any:
    if None in node.keys:
        raise ValueError("no literal: ** in a dict")
    return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}


def _name(node: ast.Name) -> Any:
    if node.id not in _NAMES:
        raise ValueError(f"no literal: the name {node.id!r}")
    return _NAMES[node.id]


def _call(node: ast.Call) -> Any:
    """set(), frozenset() and frozenset({...}): there is no other way to write these."""
    match node:
        case ast.Call(func=ast.Name(id="set"), args=[], keywords=[]):
            return set()
        case ast.Call(func=ast.Name(id="frozenset"), args=[] | [ast.Set()] as items, keywords=[]):
            return frozenset(*map(_value, items))
    raise ValueError(f"no literal: {ast.unparse(node)[:80]!r}")


def _signed(node: ast.UnaryOp) -> Any:
    value = _value(node.operand)
    if type(value) not in (int, float, complex) or not isinstance(node.op, ast.USub | ast.UAdd):
        raise ValueError(f"no literal: {ast.unparse(node)[:80]!r}")
    return -value if isinstance(node.op, ast.USub) else value


def _complex(node: ast.BinOp) -> complex:
    """A sum is a literal only as the two parts of a complex number, which keep their own signs."""
    left, right = _value(node.left), _value(node.right)
    sums = isinstance(node.op, ast.Add | ast.Sub)
    if not sums or type(left) not in (int, float) or type(right) is not complex:
        raise ValueError(f"no literal: {ast.unparse(node)[:80]!r}")
    return complex(left, -right.imag if isinstance(node.op, ast.Sub) else right.imag)


_READERS: dict[type[ast.expr], Callable[[Any], Any]] = {
    ast.Constant: _constant,
    ast.List: lambda node: [_value(item) for item in node.elts],
    ast.Tuple: lambda node: tuple(_value(item) for item in node.elts),
    ast.Set: lambda node: {_value(item) for item in node.elts},
    ast.Dict: _dict,
    ast.Name: _name,
    ast.Call: _call,
    ast.UnaryOp: _signed,
    ast.BinOp: _complex,
}


def literal_of(tree: Tree, chars: int | None = None) -> str:
    """The value as Python would show it, `chars` characters of it at most; ValueError when it is malformed.

    An opaque value is shown as `<Name object>`, which is no literal; nor is `Fraction(1, 2)`, or
    `Decimal('0.5')`.
    """
    found: list[str] = []
    length = 0
    for piece in _pieces(tree, chars):
        found.append(piece)
        length += len(piece)
        if chars is not None and length >= chars:
            break
    return "".join(found)[:chars]


def _pieces(tree: Tree, chars: int | None) -> Iterator[str]:
    """The text part by part, so that a reader of its beginning need not wait for its end."""
    if isinstance(tree, str):
        yield repr(tree if chars is None else tree[: chars + 1])
    elif isinstance(tree, int) and abs(tree) >= _LONG_INTEGER:
        yield hex(tree)
    elif tree is None or isinstance(tree, int | float):
        yield repr(tree)
    elif not isinstance(tree, list) or not tree:
        raise ValueError("a malformed value")
    elif tree[0] in _BRACKETS:
        yield from _pieces_of_items(tree[0], tree[1:], chars)
    elif tree[0] == "dict":
        yield from _pieces_of_dict(tree[1:], chars)
    elif tree[0] == "bytes":
        yield repr(bytes.fromhex(tree[1] if chars is None else tree[1][: 2 * chars]))
    elif tree[0] == "decimal":
        number_of(tree)  # which raises when it is none
        yield f"Decimal({tree[1]!r})"
    elif tree[0] == "opaque":
        yield f"<{''.join(c for c in str(tree[1])[:80] if c.isidentifier() or c.isdigit())} object>"
    else:
        number = number_of(tree)
        yield hex(number) if isinstance(number, int) and abs(number) >= _LONG_INTEGER else repr(number)


def _pieces_of_items(tag: str, items: list[Tree], chars: int | None) -> Iterator[str]:
    if not items and tag in ("set", "frozenset"):
        yield f"{tag}()"
        return
    start, end = _BRACKETS[tag]
    yield start
    for place, item in enumerate(items):
        yield ", " if place else ""
        yield from _pieces(item, chars)
    yield "," if tag == "tuple" and len(items) == 1 else ""
    yield end


def _pieces_of_dict(items: list[Tree], chars: int | None) -> Iterator[str]:
    yield "{"
    for place, (key, value) in enumerate(zip(items[::2], items[1::2], strict=True)):
        yield ", " if place else ""
        yield from _pieces(key, chars)
        yield ": "
        yield from _pieces(value, chars)
    yield "}"
