"""CodeContests rows become problems; what cannot be judged is dropped and counted; bad files are named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlef_lightning.errors import ConfigError, DataError
from rlef_lightning.problems import CodeContests, ProblemSource
from rlef_lightning.types import CODECONTESTS_RULE, Interface, Limits, TestCase

REAL = Path(__file__).parents[4] / "shared" / "data" / "codecontests_dev.parquet"


def column_of(*pairs: tuple[str, str]) -> dict[str, list[str]]:
    return {"input": [stdin for stdin, _ in pairs], "output": [expected for _, expected in pairs]}


def row(_name: str = "1_A. Sum", /, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": _name,
        "description": "Add a and b.",
        "public_tests": column_of(("1 2\n", "3\n")),
        "private_tests": column_of(("3 4\n", "7\n"), ("5 6\n", "11\n")),
        "generated_tests": column_of(("0 0\n", "0\n")),
        "source": 2,
        "difficulty": 7,
        "cf_rating": 800,
        "time_limit": {"seconds": 1, "nanos": 500_000_000},
        "memory_limit_bytes": 256_000_000,
        "input_file": "",
        "output_file": "",
        "solutions": {"language": [3], "solution": ["print(sum(map(int, input().split())))"]},
    }
    return fields | changes


def write(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def load(path: Path, **options: Any) -> Any:
    return CodeContests(train=path, **options).problems("train")


def test_a_row_becomes_a_problem(tmp_path: Path) -> None:
    (problem,) = load(write(tmp_path / "a.parquet", row()))
    assert problem.id == "1_A. Sum"
    assert problem.statement == "Add a and b."
    assert problem.public_tests == (TestCase(stdin="1 2\n", expected_stdout="3\n"),)
    assert [test.expected_stdout for test in problem.private_tests] == ["7\n", "11\n", "0\n"]
    assert problem.limits == Limits(cpu_s=1.5, wall_s=11.5, memory_bytes=256_000_000)
    assert problem.rule == CODECONTESTS_RULE
    assert problem.metadata == {"source": "codeforces", "difficulty": "7", "rating": "800"}


def test_absent_limits_are_the_papers(tmp_path: Path) -> None:
    rows = [row("a", time_limit=None, memory_limit_bytes=0), row("b")]
    assert load(write(tmp_path / "a.parquet", *rows))[0].limits == Limits()


def test_wall_time_leaves_room_for_shared_machines(tmp_path: Path) -> None:
    (problem,) = load(write(tmp_path / "a.parquet", row(time_limit={"seconds": 20, "nanos": 0})))
    assert (problem.limits.cpu_s, problem.limits.wall_s) == (20.0, 60.0)


def test_columns_beyond_the_tests_may_be_absent(tmp_path: Path) -> None:
    kept = {name: row()[name] for name in ("name", "description", "public_tests", "private_tests")}
    (problem,) = load(write(tmp_path / "a.parquet", kept), include_generated=False)
    assert problem.limits == Limits()
    assert problem.metadata == {"source": "unknown"}


def test_options_narrow_the_tests(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row())
    assert len(load(path, include_generated=False)[0].private_tests) == 2
    assert [t.expected_stdout for t in load(path, max_private_tests=1)[0].private_tests] == ["7\n"]


def test_unusable_problems_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        tmp_path / "a.parquet",
        row("kept"),
        row("kept"),
        row("no public", public_tests=column_of()),
        row("no private", private_tests=column_of(), generated_tests=column_of()),
        row("generated only", private_tests=column_of()),
        row("blank", description=" "),
        row("long", description="x" * 101),
    )
    with caplog.at_level(logging.INFO):
        problems = load(path, max_statement_chars=100)
    assert [problem.id for problem in problems] == ["kept", "generated only"]
    for reason in (
        "1 with a statement over 100 characters",
        "1 with a name seen before",
        "1 without a statement",
        "1 without private tests",
        "1 without public tests",
    ):
        assert reason in caplog.text


def test_folders_and_globs_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.parquet", row(f"{name}1"), row(f"{name}2"))
    everything = [f"{name}{i}" for name in "abc" for i in (1, 2)]
    assert [p.id for p in load(tmp_path)] == everything
    assert [p.id for p in load(tmp_path / "[ab].parquet")] == everything[:4]
    assert [p.id for p in load(tmp_path, max_problems=3)] == everything[:3]


def test_a_folder_named_by_split_gives_each_split_its_files(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "valid-00000-of-00001"):
        write(tmp_path / f"{name}.parquet", row(name))
    source = CodeContests(train=tmp_path, validation=tmp_path, test=tmp_path)
    assert len(source.problems("train")) == 2
    assert len(source.problems("validation")) == 1
    with pytest.raises(DataError, match=r"\(init_args.test\) holds no test \*.parquet file"):
        source.problems("test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "field name: found null; expected text"),
        ({"name": 7}, "field name: found int '7'; expected text"),
        ({"description": None}, "field description: found null; expected text"),
        ({"public_tests": None}, r"field public_tests: found null; expected \{input"),
        ({"public_tests": "1 2"}, "field public_tests: found str '1 2'"),
        ({"private_tests": {"input": ["1"]}}, "field private_tests.output: found null; expected a list"),
        ({"private_tests": {"input": "1", "output": []}}, "field private_tests.input: found str '1'"),
        ({"private_tests": {"input": [1], "output": ["1"]}}, r"field private_tests.input\[0\]: found int"),
        (
            {"generated_tests": {"input": ["1", None], "output": ["1", "2"]}},
            r"field generated_tests.input\[1\]: found null",
        ),
        ({"public_tests": {"input": ["1", "2"], "output": ["1"]}}, "field public_tests: 2 inputs, 1 outputs"),
        ({"time_limit": 3.0}, "field time_limit: found float '3.0'"),
        ({"time_limit": {"seconds": -1, "nanos": 0}}, "field time_limit.seconds: found int '-1'"),
        ({"memory_limit_bytes": "1 GB"}, "field memory_limit_bytes: found str '1 GB'"),
    ],
)
def test_malformed_rows_name_file_row_and_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    # A file of its own for the bad row: within one file a column has one type.
    write(tmp_path / "a.parquet", row("good"))
    write(tmp_path / "b.parquet", row("bad", **changes))
    with pytest.raises(DataError, match=rf"b.parquet, row 0, {message}"):
        load(tmp_path)


def test_the_row_is_counted_within_its_file(tmp_path: Path) -> None:
    rows = [row(str(i)) for i in range(40)]
    rows[37]["description"] = None
    with pytest.raises(DataError, match="row 37, field description: found null"):
        load(write(tmp_path / "a.parquet", *rows))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    incomplete = row()
    del incomplete["generated_tests"]
    path = write(tmp_path / "a.parquet", incomplete)
    with pytest.raises(DataError, match=r"lacks the column 'generated_tests'.*found: name"):
        load(path)


def test_absent_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.parquet does not exist.*init_args.train"):
        load(tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"holds no train \*.parquet file"):
        load(tmp_path)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"torn.parquet is not a readable parquet file"):
        load(tmp_path / "torn.parquet")


def test_a_torn_page_is_a_data_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row())
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 3) + content[4 + len(content) // 3 :])
    with pytest.raises(DataError, match=r"a.parquet"):
        load(path)


def test_named_files_are_the_interface(tmp_path: Path) -> None:
    rows = (row("a"), row("b", input_file="in.txt", output_file=None), row("c", output_file="out.txt"))
    plain, reads, writes = load(write(tmp_path / "a.parquet", *rows))
    assert plain.interface == Interface()
    assert reads.interface == Interface(input_file="in.txt")
    assert writes.interface == Interface(output_file="out.txt")


def test_a_path_is_no_name_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row(), row("b", input_file="../in.txt"))
    with pytest.raises(DataError, match=r"a.parquet, row 1: .*'../in.txt'; needed: a name without folders"):
        load(path)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row(public_tests=column_of()), row("b", description=" "))
    with pytest.raises(DataError, match=r"no usable problem.*init_args.train.*1 without a statement"):
        load(path)


def test_a_split_without_a_path_names_the_option() -> None:
    with pytest.raises(ConfigError, match=r"CodeContests has no test file; set init_args.test"):
        CodeContests().problems("test")


@pytest.mark.parametrize("option", ["max_problems", "max_private_tests", "max_statement_chars"])
def test_limits_must_be_positive(option: str) -> None:
    with pytest.raises(ConfigError, match=f"init_args.{option} is 0; it must be at least 1"):
        CodeContests(**{option: 0})


def test_it_is_a_problem_source() -> None:
    assert isinstance(CodeContests(), ProblemSource)


@pytest.mark.skipif(not REAL.exists(), reason=f"real data absent: shared/data/{REAL.name} beside the project")
def test_real_problems() -> None:
    problems = load(REAL)
    assert len(problems) == 171
    assert sum(len(problem.private_tests) for problem in problems) == 7804
    assert {problem.limits for problem in problems} == {Limits(cpu_s=10.0, memory_bytes=1 << 30)}
    assert all(problem.public_tests for problem in problems)
    assert load(REAL) == problems
    assert load(REAL, max_problems=4) == problems[:4]
