"""JSON objects <-> the lines of a file, each with a checksum of its own.

    {"crc32": "5d41a0c3", "record": "episode", ...}

The checksum is over the line's bytes after `"crc32": "........", `, without the line break. So a line can be
checked without knowing what is in it, and any reader of JSON lines (pyarrow.json, jq, pandas) takes the file
as it is. This file knows nothing of episodes and writes nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START, _END = b'{"crc32": "', b'", '
_BODY = len(_START) + 8 + len(_END)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a file."""

    number: int
    """From 1."""
    stop: int
    """Bytes of the file up to the line's end."""
    whole: bool
    """False: the line break is missing, as it was not written to its end."""
    record: dict[str, Any] | None
    """None: torn, or other bytes than those that were written."""


def record_line(record: Mapping[str, Any]) -> bytes:
    """The record's line, with its break. Floats are written so that they are read back exactly.

    Half a surrogate pair, which a test of a problem may hold, is no text that JSON readers agree on: it is
    written as a question mark.

    Raises:
        ValueError: the record is empty, or holds a number that is not finite.
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if not record:
        raise ValueError("a record needs at least one field")
    body = text[1:].encode(errors="replace")
    return _START + b"%08x" % zlib.crc32(body) + _END + body + b"\n"


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record, checksum left out, of a line without its break; None when the checksum does not fit."""
    body = line[_BODY:]
    if line[:_BODY] != _START + b"%08x" % zlib.crc32(body) + _END:
        return None
    record: dict[str, Any] = json.loads(b"{" + body)
    return record


def read_lines(path: str | Path) -> Iterator[Line]:
    """Every line of a file, in order, one at a time; nothing in it is an error."""
    stop = 0
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            stop += len(line)
            whole = line.endswith(b"\n")
            record = parse_line(line[:-1]) if whole else None
            yield Line(number=number, stop=stop, whole=whole, record=record)
