"""A line is what was written, or it is seen not to be."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.rollout.records import parse_line, read_lines, record_line

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(1 << 63), 1 << 63)
values = st.recursive(st.none() | st.booleans() | numbers | text, lambda inner: st.lists(inner, max_size=3))
records = st.dictionaries(text, values, min_size=1, max_size=4)


def test_written_by_hand() -> None:
    body = b'"record": "header", "format": 1}'
    line = record_line({"record": "header", "format": 1})
    assert line == b'{"crc32": "%08x", ' % zlib.crc32(body) + body + b"\n"


@given(records)
def test_round_trip_is_exact(record: dict[str, object]) -> None:
    line = record_line(record)
    assert line.count(b"\n") == 1
    found = parse_line(line[:-1])
    assert found is not None
    # As text, because -0.0 == 0.0.
    assert json.dumps(found) == json.dumps(record)


@given(records, st.data())
def test_any_other_byte_is_seen(record: dict[str, object], data: st.DataObject) -> None:
    line = bytearray(record_line(record)[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    assert parse_line(bytes(line)) is None


@given(records, st.data())
def test_a_part_is_seen(record: dict[str, object], data: st.DataObject) -> None:
    line = record_line(record)[:-1]
    assert parse_line(line[: data.draw(st.integers(0, len(line) - 1))]) is None


def test_lines_say_where_they_end(tmp_path: Path) -> None:
    first, second = record_line({"a": 1}), record_line({"b": "é"})
    path = tmp_path / "file"
    path.write_bytes(first + b"rubbish\n" + second + b'{"crc32": "torn')
    lines = list(read_lines(path))
    assert [(line.number, line.whole, line.record and line.record.get("b")) for line in lines] == [
        (1, True, None), (2, True, None), (3, True, "é"), (4, False, None),
    ]  # fmt: skip
    assert lines[1].record is None
    assert [line.stop for line in lines][:3] == [len(first), len(first) + 8, len(first) + 8 + len(second)]


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    found = parse_line(record_line({"feedback": "a\ud800b"})[:-1])
    assert found is not None
    assert found["feedback"] == "a?b"


@pytest.mark.parametrize("bad", [{}, {"logprob": float("nan")}])
def test_what_json_cannot_say_is_an_error(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        record_line(bad)
