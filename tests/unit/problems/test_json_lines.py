"""Our own format reads back what was written and names line and field of what it cannot read."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.errors import ConfigError, DataError
from rlef_lightning.problems import JsonLines, ProblemSource, read_json_lines, write_json_lines
from rlef_lightning.types import Interface, Limits, OutputRule, Problem, TestCase

any_text = st.text(st.characters())
positive = st.floats(1e-3, 1e6)
tests = st.lists(st.builds(TestCase, stdin=any_text, expected_stdout=any_text), min_size=1, max_size=3).map(
    tuple
)
problems_strategy = st.lists(
    st.builds(
        Problem,
        id=st.text(min_size=1),
        statement=any_text,
        public_tests=tests,
        private_tests=tests,
        limits=st.builds(Limits, cpu_s=positive, wall_s=positive, memory_bytes=st.integers(1, 1 << 40)),
        rule=st.builds(
            OutputRule, ignore_case=st.booleans(), absolute_tolerance=st.floats(0, 1), checker=any_text
        ),
        interface=st.builds(Interface, function=st.text()) | st.builds(Interface, output_file=st.just("a")),
        metadata=st.dictionaries(st.text(), st.text(), max_size=2),
    ),
    max_size=3,
    unique_by=lambda problem: problem.id,
).map(tuple)

TEST = {"stdin": "1\n", "expected_stdout": "2\n"}


def line(**changes: Any) -> dict[str, Any]:
    fields = {"id": "a", "statement": "Double it.", "public_tests": [TEST], "private_tests": [TEST]}
    return {name: value for name, value in (fields | changes).items() if value != "absent"}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@given(problems=problems_strategy)
def test_round_trip(suffix: str, problems: tuple[Problem, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"problems{suffix}"
        write_json_lines(path, problems)
        assert read_json_lines(path) == problems
        assert [found.name for found in Path(folder).iterdir()] == [path.name]


def test_only_the_tests_are_required(tmp_path: Path) -> None:
    (problem,) = read_json_lines(write(tmp_path / "a.jsonl", line()))
    test = TestCase(stdin="1\n", expected_stdout="2\n")
    assert problem == Problem(id="a", statement="Double it.", public_tests=(test,), private_tests=(test,))


def test_part_of_limits_and_rule_may_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line(limits={"cpu_s": 2}, rule={"exact_whitespace": True}))
    (problem,) = read_json_lines(path)
    assert problem.limits == Limits(cpu_s=2)
    assert problem.rule == OutputRule(exact_whitespace=True)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (["a"], r"the line: found \[\"a\"\]; expected an object"),
        (line(id="absent"), "the line: lacks the field 'id'; found: statement"),
        (line(id=""), 'field id: found ""; expected text that is not empty'),
        (line(id=3), "field id: found 3; expected text"),
        (line(statement=None), "field statement: found null; expected text"),
        (line(public_tests=[]), r"field public_tests: found \[\]; expected a list of at least one test"),
        (line(private_tests={}), r"field private_tests: found \{\}; expected a list"),
        (line(private_tests=[TEST, 5]), r"private_tests\[1\]: found 5; expected an object"),
        (line(public_tests=[{"stdin": "1"}]), r"public_tests\[0\]: lacks the field 'expected_stdout'"),
        (line(public_tests=[TEST | {"stdin": 1}]), r"field public_tests\[0\].stdin: found 1; expected text"),
        (
            line(public_tests=[TEST | {"input": ""}]),
            r"public_tests\[0\]: unknown field 'input'; expected: stdin",
        ),
        (line(limit={}), "the line: unknown field 'limit'; expected: id, statement"),
        (line(limits=[]), r"limits: found \[\]; expected an object"),
        (line(limits={"cpu": 1}), "limits: unknown field 'cpu'; expected: cpu_s"),
        (line(limits={"cpu_s": 0}), "field limits.cpu_s: found 0; expected a number above 0"),
        (line(limits={"cpu_s": "1"}), 'field limits.cpu_s: found "1"; expected a number above 0'),
        (line(limits={"cpu_s": True}), "field limits.cpu_s: found true"),
        (line(limits={"memory_bytes": 1.5}), "field limits.memory_bytes: found 1.5; expected a whole number"),
        (line(limits={"cpu_s": float("inf")}), "field limits.cpu_s: found Infinity"),
        (line(rule={"ignore_case": 1}), "field rule.ignore_case: found 1; expected true or false"),
        (line(rule={"absolute_tolerance": -1}), "field rule.absolute_tolerance: found -1; expected a number"),
        (line(rule={"checker": 1}), "field rule.checker: found 1; expected text"),
        (line(interface={"function": 1}), "field interface.function: found 1; expected text"),
        (line(interface={"file": "a"}), "interface: unknown field 'file'; expected: input_file, output_file"),
        (line(interface={"input_file": "a/b"}), "field interface: .*'a/b'; needed: a name without folders"),
        (line(interface={"input_file": "a", "function": "f"}), "field interface: .*it can have either"),
        (line(metadata=[]), r"field metadata: found \[\]"),
        (line(metadata={"rating": 800}), "field metadata.rating: found 800; expected text"),
    ],
)
def test_malformed_lines_name_file_line_and_field(tmp_path: Path, item: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", line(id="first"), item)
    with pytest.raises(DataError, match=rf"a.jsonl:2, {message}"):
        read_json_lines(path)


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line()) + "\n\n{'id': 1}\n")
    with pytest.raises(DataError, match=r"a.jsonl:3: not a JSON value"):
        read_json_lines(path)


def test_ids_are_unique(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line(), line(id="b"), line())
    with pytest.raises(DataError, match=r"a.jsonl:3, field id: found 'a', the id of line 1"):
        read_json_lines(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"not gzip", id="not gzip"),
        pytest.param(gzip.compress(b"x" * 99, mtime=0)[:-9], id="cut gzip"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("a.jsonl" if content.startswith(b"\xff") else "a.jsonl.gz")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.jsonl(.gz)? cannot be read"):
        read_json_lines(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line())
    (problem,) = read_json_lines(path)

    def broken() -> Iterator[Problem]:
        yield problem
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_json_lines(path, broken())
    assert read_json_lines(path) == (problem,)
    assert len(list(tmp_path.iterdir())) == 1


def test_equal_problems_are_equal_bytes(tmp_path: Path) -> None:
    problems = read_json_lines(write(tmp_path / "a.jsonl", line()))
    for name in ("b.jsonl.gz", "c.jsonl.gz"):
        write_json_lines(tmp_path / name, problems)
    assert (tmp_path / "b.jsonl.gz").read_bytes() == (tmp_path / "c.jsonl.gz").read_bytes()


def test_a_source_gives_each_split_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line(), line(id="b"))
    source = JsonLines(train=path, validation=tmp_path / "none.jsonl", max_problems=1)
    assert isinstance(source, ProblemSource)
    assert [problem.id for problem in source.problems("train")] == ["a"]
    with pytest.raises(DataError, match=r"none.jsonl is not a file; set init_args.validation"):
        source.problems("validation")
    with pytest.raises(ConfigError, match=r"JsonLines has no test file; set init_args.test"):
        source.problems("test")


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no problem"):
        JsonLines(train=path).problems("train")


def test_the_number_of_problems_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"JsonLines: init_args.max_problems is -1"):
        JsonLines(max_problems=-1)
