"""Messages between trainer, daemon and runner: a length, that many bytes of JSON, then raw blobs.

The runner carries its own copy of these few lines, because it is a single file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from rlef_lightning.types import Interface, Limits, OutputRule, Report, TestCase, TestResult, Verdict

Message = dict[str, Any]
_READ_BYTES = 64 << 10
"""At a time. For asyncio's own 256 KiB the C library maps memory anew, which takes ten times as long."""


async def open_streams(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connected Unix socket for frames; it is closed with the writer."""
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    with contextlib.suppress(AttributeError):  # the trainer's loop may be another one than asyncio's
        writer.transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
    return reader, writer


def encode(message: Mapping[str, Any], *blobs: bytes) -> bytes:
    """One frame; the key "blobs" is taken for the lengths."""
    text = json.dumps({**message, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join((struct.pack("!I", len(text)), text, *blobs))


async def read_frame(reader: asyncio.StreamReader) -> tuple[Message, list[bytes]]:
    """The next frame; raises asyncio.IncompleteReadError or ConnectionError at the end of the stream."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    message = json.loads(await reader.readexactly(length))
    return message, [await reader.readexactly(size) for size in message.pop("blobs")]


def _fields(record: Limits | Interface | OutputRule | TestResult) -> Message:
    """Of a dataclass of plain values; `asdict` copies each deeply, which took as long as all of JSON."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def tests_to_json(tests: tuple[TestCase, ...]) -> list[list[str]]:
    """Pairs of input and expected output."""
    return [[test.stdin, test.expected_stdout] for test in tests]


def tests_from_json(pairs: list[list[str]]) -> tuple[TestCase, ...]:
    """The inverse of `tests_to_json`."""
    return tuple(TestCase(stdin=stdin, expected_stdout=expected) for stdin, expected in pairs)


def limits_to_json(limits: Limits) -> Message:
    """All fields by name."""
    return _fields(limits)


def interface_to_json(interface: Interface) -> Message:
    """All fields by name."""
    return _fields(interface)


def rule_to_json(rule: OutputRule) -> Message:
    """All fields by name."""
    return _fields(rule)


def report_to_json(report: Report) -> list[Message]:
    """One mapping per result."""
    return [_fields(result) for result in report.results]


def report_from_json(results: list[Message]) -> Report:
    """The inverse of `report_to_json`."""
    return Report(results=tuple(TestResult(**{**r, "verdict": Verdict(r["verdict"])}) for r in results))
