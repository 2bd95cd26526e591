"""Response text -> program text, or None.

Finds Markdown fences line by line. It does not check that the program compiles: that is a verdict
of the execution room.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PYTHON_TAGS = frozenset({"python", "python3", "py", "py3"})
_OPENING = re.compile(r"^(?P<indent>[ \t]*+)(?P<ticks>`{3,}+)[ \t]*+(?P<tag>[^\s`]*+)[^`]*+$")
# In the middle of a line only a bare "```python" opens a block: prose may well mention backticks.
_OPENING_AFTER_TEXT = re.compile(r"^[^`]*+(?P<ticks>`{3,}+)(?P<tag>python|py)[ \t]*+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fence:
    """A block between fences; `closed` is False where the response ended inside it."""

    is_python: bool
    body: str
    closed: bool


def extract_code(response: str) -> str | None:
    """The program in a response: the first ```python block, else the first block of any kind, else None.

    Tags are read without regard to case ("```Python", "```py"). Blocks of white space only are
    passed over. A block that is never closed was cut by the length limit, and half a program is not
    an answer: a ```python block left open gives None even if an untagged block stands before it.
    Carriage returns at line ends are dropped; the result has no final newline.
    """
    fences = [fence for fence in _fences(response) if fence.body.strip() or not fence.closed]
    chosen = next((f for f in fences if f.is_python), fences[0] if fences else None)
    return chosen.body if chosen is not None and chosen.closed else None


def answer_in(response: str, mark: str | None) -> str | None:
    """The text after the last mark, as "</think>"; None where there is none. Without a mark: the response."""
    if not mark:
        return response
    _, found, answer = response.rpartition(mark)
    return answer if found else None


def _fences(response: str) -> Iterator[_Fence]:
    """The blocks of a response in order; only the last can be open."""
    lines = iter([line.removesuffix("\r") for line in response.split("\n")])
    for line in lines:
        opening = _OPENING.match(line) or _OPENING_AFTER_TEXT.match(line)
        if opening is not None:
            yield _read_block(opening, lines)


def _read_block(opening: re.Match[str], lines: Iterator[str]) -> _Fence:
    """Read on to the closing fence: backticks, at least as many as opened the block, that end a line."""
    groups = opening.groupdict()
    indent = groups.get("indent") or ""
    is_python = groups["tag"].lower() in _PYTHON_TAGS
    body: list[str] = []
    for line in lines:
        before = line.rstrip().rstrip("`")
        if len(line.rstrip()) - len(before) >= len(groups["ticks"]):
            if before.strip():
                body.append(before.removeprefix(indent))
            return _Fence(is_python=is_python, body="\n".join(body), closed=True)
        body.append(line.removeprefix(indent))
    return _Fence(is_python=is_python, body="\n".join(body), closed=False)
