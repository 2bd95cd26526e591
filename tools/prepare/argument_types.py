"""JSON arguments + example calls -> arguments of the right Python types.

JSON has no tuples, sets or complex numbers. The asserts of MBPP+ show the base inputs as Python literals:
what is a list in the JSON and a tuple there is a tuple at that place in every other input of the task, too.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from rlef_lightning.execution.literals import read_literal

_NUMBERS = (int, float, complex)


class ArgumentTypes:
    """What one argument, or all items of one, are made of; learned from pairs of JSON and literal."""

    def __init__(self) -> None:
        self._types: dict[str, type] = {}
        self._items: dict[str, ArgumentTypes] = {}

    def learn(self, found: Any, literal: Any) -> None:
        """Takes over the types of one example; the first one to show something decides."""
        kind = kind_of(found)
        self._types.setdefault(kind, type(literal))
        pairs = _pairs(found, literal)
        if pairs:
            items = self._items.setdefault(kind, ArgumentTypes())
            for inner, inner_literal in pairs:
                items.learn(inner, inner_literal)

    def apply(self, found: Any, outer: type = list) -> Any:
        """The argument that the JSON stands for. Arrays deeper than any example are of the type `outer`."""
        kind = kind_of(found)
        if kind == "text":
            return _number(found) if self._types.get("text", self._types.get("other")) in _NUMBERS else found
        if kind == "object":
            return {key: self._inner(kind).apply(value) for key, value in found.items()}
        if kind == "other":
            return found
        made = self._types.get(kind) or self._types.get("array") or outer
        if made is dict:
            return {}
        items, deeper = self._inner("array"), self._deeper(made, outer)
        return made(items.apply(item, deeper) for item in found)

    def _inner(self, kind: str) -> ArgumentTypes:
        return self._items.get(kind, ArgumentTypes())

    def _deeper(self, made: type, outer: type) -> type:
        """Tuples of tuples hold tuples all the way down; else what no example shows stays a list."""
        nested = self._inner("array")._types.get("array") is tuple or outer is tuple
        return tuple if made is tuple and nested else list


def kind_of(found: Any) -> str:
    """Which of its types at one place a JSON value belongs to; an empty array may stand for an empty dict."""
    if isinstance(found, list):
        return "array" if found else "empty"
    return "object" if isinstance(found, dict) else "text" if isinstance(found, str) else "other"


def _pairs(found: Any, literal: Any) -> list[tuple[Any, Any]]:
    """The items of both that belong together; none where they do not correspond."""
    if isinstance(found, dict) and isinstance(literal, dict) and len(found) == len(literal):
        return list(zip(found.values(), literal.values(), strict=True))
    if isinstance(found, list) and isinstance(literal, list | tuple) and len(found) == len(literal):
        return list(zip(found, literal, strict=True))
    return []


def _number(text: str) -> float | complex | str:
    """JSON has complex numbers as text."""
    for kind in (float, complex):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def typed(
    inputs: Sequence[list[Any]], examples: Sequence[list[Any]], calls: Sequence[list[Any]]
) -> list[tuple[Any, ...]]:
    """The inputs with types; `examples` are the inputs that `calls` show as literals, one for one."""
    types: dict[int, ArgumentTypes] = {}
    if len(examples) == len(calls):
        for example, call in zip(examples, calls, strict=True):
            for place, (found, literal) in enumerate(zip(example, call, strict=False)):
                types.setdefault(place, ArgumentTypes()).learn(found, literal)
    return [
        tuple(types.get(place, ArgumentTypes()).apply(found) for place, found in enumerate(arguments))
        for arguments in inputs
    ]


def calls_in(asserts: str, function: str) -> Iterator[list[Any]]:
    """The arguments of the function's first call in each assert, where they are literals."""
    for statement in ast.walk(ast.parse(asserts)):
        if isinstance(statement, ast.Assert):
            found = _first_call(statement, function)
            if found is not None:
                yield found


def _first_call(statement: ast.Assert, function: str) -> list[Any] | None:
    for node in ast.walk(statement.test):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            try:
                return [read_literal(ast.unparse(argument)) for argument in node.args]
            except ValueError:
                return None
    return None
