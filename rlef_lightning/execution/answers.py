"""interface + test -> Run, and what came of it -> an Answer that can be shown, compared and checked.

Two kinds: text (stdout or a file) and the value of a function. Decides no verdict.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Protocol, TypeVar

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.aside import LARGE, aside
from rlef_lightning.execution.compare import matches
from rlef_lightning.execution.inside.values import encode, tree_of
from rlef_lightning.execution.literals import literal_of, read_literal
from rlef_lightning.execution.runs import NO_EXTRAS, Extras, Run, RunFacts
from rlef_lightning.execution.values import values_match
from rlef_lightning.types import Interface, Limits, OutputRule, TestCase

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MALFORMED = (ValueError, TypeError, RecursionError, OverflowError, MemoryError, LookupError)
_NO_LITERALS = ("object>", "Fraction(", "Decimal(")
"""Parts of what stands for a value that has no literal (execution/literals.py)."""
T = TypeVar("T")


class Answer(Protocol):
    """What a program gave as its answer."""

    def shown(self, chars: int) -> str:
        """Its beginning, for people and prompts."""
        ...

    def matches(self, expected: str, rule: OutputRule) -> bool:
        """True when it is right by the rule. Raises ExecutorError when `expected` is at fault."""
        ...

    def text(self) -> bytes | None:
        """What a checker reads on stdin; None: there is nothing to check."""
        ...


class TextAnswer:
    """What was printed, or written to a file."""

    def __init__(self, data: bytes):
        self.data = data

    def shown(self, chars: int) -> str:
        """See `Answer.shown`."""
        return readable(self.data[: 4 * chars])[:chars]

    def matches(self, expected: str, rule: OutputRule) -> bool:
        """See `Answer.matches`."""
        return matches(self.data, expected, rule)

    def text(self) -> bytes | None:
        """See `Answer.text`."""
        return self.data


class ValueAnswer:
    """A function's value as it was sent; nothing, or what is malformed, is no value."""

    def __init__(self, data: bytes):
        self._tree, self.present = None, False
        with contextlib.suppress(*_MALFORMED):  # never called, cut short, or forged badly
            self._tree, self.present = json.loads(data), True

    def shown(self, chars: int) -> str:
        """The value as Python shows it; empty without one."""
        return _ADDRESS.sub(" at 0x...", self._literal(chars) or "")[:chars]

    def matches(self, expected: str, rule: OutputRule) -> bool:
        """See `Answer.matches`."""
        literal = self._literal(None)
        if literal is not None and literal == expected and not any(part in literal for part in _NO_LITERALS):
            return True  # by far the cheapest way to read the literal of a large value is not to
        wanted = tree_of(_literal(expected, "expected_stdout"))
        try:
            return self.present and values_match(self._tree, wanted, rule)
        except _MALFORMED:
            return False

    def text(self) -> bytes | None:
        """The value as a literal in one line."""
        literal = self._literal(None)
        return None if literal is None else f"{literal}\n".encode("utf-8", "surrogatepass")

    def _literal(self, chars: int | None) -> str | None:
        try:
            return literal_of(self._tree, chars) if self.present else None
        except _MALFORMED:
            return None


def run_of(code: bytes, test: TestCase, limits: Limits, interface: Interface) -> Run:
    """The run of a test through the interface; raises ExecutorError when the test's input is at fault."""
    stdin = test.stdin.encode("utf-8", "surrogatepass")
    if interface.function:
        arguments = _literal(test.stdin, "stdin")
        if not isinstance(arguments, tuple):
            raise ExecutorError(
                f"a test of the function {interface.function!r} has the stdin {test.stdin[:80]!r}; needed: a "
                "tuple of its arguments, such as (3,)"
            )
        extras = Extras(function=interface.function)
        return Run(code=code, stdin=encode(arguments), limits=limits, extras=extras)
    if not interface.input_file and not interface.output_file:
        return Run(code=code, stdin=stdin, limits=limits, extras=NO_EXTRAS)
    files = {interface.input_file: stdin} if interface.input_file else {}
    extras = Extras(files=files, output_file=interface.output_file)
    return Run(code=code, stdin=b"" if files else stdin, limits=limits, extras=extras)


def answer_of(facts: RunFacts, interface: Interface) -> Answer:
    """The answer that a run gave through the interface."""
    return ValueAnswer(facts.stdout) if interface.function else TextAnswer(facts.stdout)


def _literal(text: str, field: str) -> object:
    try:
        return read_literal(text)
    except ValueError as error:
        raise ExecutorError(
            f"a test of a function has the {field} {text[:80]!r}; needed: a Python literal ({error})"
        ) from None


def readable(output: bytes) -> str:
    """Text for people and prompts. Addresses differ from process to process: they would make a run
    impossible to repeat, and they mean nothing to a reader."""
    return _ADDRESS.sub(" at 0x...", output.decode(errors="replace"))


async def done_aside(size: int, work: Callable[[], T]) -> T:
    """The work's result; a large one is done next to the event loop."""
    return await aside(work) if size > LARGE else work()
