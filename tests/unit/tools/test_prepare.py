"""Foreign data -> problems: types of arguments, statements, rules, checkers, errors."""

from __future__ import annotations

import ast
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlef_lightning.errors import ConfigError, DataError
from rlef_lightning.types import OutputRule
from tools.prepare.argument_types import calls_in, typed
from tools.prepare.evalplus import read_tasks, rule_of, statement_of
from tools.prepare.files import make_executor, read_rows
from tools.prepare.kattis import problem_of, read_packages
from tools.prepare.oracles import checker_for


def types_of(asserts: str, base: list[Any], plus: list[Any]) -> list[Any]:
    return typed(plus, base, list(calls_in(asserts, "f")))


@pytest.mark.parametrize(
    ("asserts", "base", "plus", "wanted"),
    [
        ("assert f((1, 2)) == 3", [[[1, 2]]], [[[3]], [[]]], [((3,),), ((),)]),
        ("assert set(f((1,), [2])) == {1}", [[[1], [2]]], [[[3], [4]]], [((3,), [4])]),
        ("assert f([(1, 2), (3, 4)])", [[[[1, 2], [3, 4]]]], [[[[5, 6]]]], [([(5, 6)],)]),
        ("assert f((1, (2, 3)))", [[[1, [2, 3]]]], [[[1, [2, [3, [4]]]]]], [((1, (2, (3, (4,)))),)]),
        ("assert f({'a': (1,)})", [[{"a": [1]}]], [[{"b": [2]}]], [({"b": (2,)},)]),
        ("assert f([{1}, {}])", [[[[1], []]]], [[[[], [2, 2]]]], [([{}, {2}],)]),
        ("assert f(0, 1j)", [["0.0", "1j"]], [["2.0", "(1+2j)"]], [(2.0, 1 + 2j)]),
        ("assert f(1)", [[1]], [["(1+2j)"]], [(1 + 2j,)]),
        ("assert f('a')", [["a"]], [["1"]], [("1",)]),
        ("assert f(2 * x)", [[[1]]], [[[2]]], [([2],)]),  # no literal: nothing is known
        ("assert f((1,))\nassert f((2,))", [[[1]]], [[[3]]], [([3],)]),  # does not correspond
    ],
)
def test_types_of_arguments(asserts: str, base: list[Any], plus: list[Any], wanted: list[Any]) -> None:
    found = types_of(asserts, base, plus)
    assert found == wanted
    assert repr(found) == repr(wanted)


HUMANEVAL = {
    "task_id": "HumanEval/1", "entry_point": "f", "prompt": 'def f(x):\n    """ Add one. """\n',
    "canonical_solution": "    return x + 1\n", "base_input": [[1], [2]], "plus_input": [[3], [4], [5]],
    "atol": 0,
}  # fmt: skip
MBPP = {
    "task_id": "Mbpp/2", "entry_point": "similar_elements",
    "prompt": '"""\nFind the shared elements.\nassert similar_elements((1,), (1,)) == (1,)\n"""\n',
    "canonical_solution": "\ndef similar_elements(a, b):\n  return tuple(set(a) & set(b))\n",
    "base_input": [[[1], [1]]], "plus_input": {}, "atol": 0.0001,
    "assertion": "\nassert similar_elements((1,), (1,)) == (1,)\n",
}  # fmt: skip


def write(path: Path, *rows: Any) -> Path:
    with gzip.open(path, "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_tasks_of_both_data_sets(tmp_path: Path) -> None:
    one, other = read_tasks(write(tmp_path / "a.jsonl.gz", HUMANEVAL, MBPP), max_plus=2)
    assert (one.base, one.plus) == ([(1,), (2,)], [(3,), (4,)])
    assert one.canonical == 'def f(x):\n    """ Add one. """\n    return x + 1\n'
    assert (other.base, other.plus) == ([((1,), (1,))], [])
    assert statement_of(one).endswith('```python\ndef f(x):\n    """ Add one. """\n```')
    assert statement_of(other) == (
        "Find the shared elements.\n\nThe function `similar_elements` must pass these tests:\n\n"
        "assert similar_elements((1,), (1,)) == (1,)"
    )
    assert rule_of(one) == OutputRule(absolute_tolerance=1e-6, relative_tolerance=1e-7)
    assert rule_of(other).absolute_tolerance == 0.0001
    assert "set(read(text)) == set(expected)" in rule_of(other).checker


@pytest.mark.parametrize(
    ("function", "arguments", "expected", "output", "code"),
    [
        ("find_char_long", "('a',)", "['abcd', 'efgh']", "['efgh', 'abcd']", 42),
        ("find_char_long", "('a',)", "['abcd']", "None", 43),
        ("find_char_long", "('a',)", "['abcd']", "<A object>", 43),
        ("check_str", "('a',)", "True", "<Match object>", 42),
        ("check_str", "('a',)", "True", "None", 43),
        ("check_str", "('a',)", "False", "False", 42),
        ("are_equivalent", "(1, 2)", "True", "False", 42),
        ("sum_div", "(1,)", "1", "0", 42),
        ("sum_div", "(1,)", "1", "2", 43),
        ("surface_Area", "(3, 4)", "33", "35", 42),  # 3^2 + 2 * 3 * sqrt(1.5^2 + 4^2) = 34.6
        ("surface_Area", "(3, 4)", "33", "34", 43),
        ("digit_distance_nums", "(1, 23)", "1", "4", 42),  # 01 and 23
        ("digit_distance_nums", "(1, 23)", "1", "3", 43),
    ],
)
def test_oracles(
    tmp_path: Path, function: str, arguments: str, expected: str, output: str, code: int
) -> None:
    assert run_checker(tmp_path, checker_for("Mbpp/1", function, 0.0), arguments, expected, output) == code


@pytest.mark.parametrize(("output", "code"), [("1.0", 42), ("2", 42), ("1.5", 43), ("nan", 43), ("", 43)])
def test_any_root_will_do(tmp_path: Path, output: str, code: int) -> None:
    checker = checker_for("HumanEval/32", "find_zero", 1e-4)  # 2 - 3 x + x^2
    assert run_checker(tmp_path, checker, "([2, -3, 1],)", "1.0", output) == code


def run_checker(folder: Path, checker: str, arguments: str, expected: str, output: str) -> int:
    """The exit code by the convention of the Kattis problem format."""
    (folder / "input").write_text(arguments)
    (folder / "answer").write_text(expected)
    ast.parse(checker)
    command = [sys.executable, "-I", "-c", checker, "input", "answer", "feedback/"]
    return subprocess.run(command, input=output, text=True, cwd=folder, check=False).returncode


def test_most_tasks_need_no_checker() -> None:
    assert checker_for("Mbpp/3", "is_not_prime", 0.0) == ""
    assert checker_for("HumanEval/1", "sum_div", 0.0) == ""


PACKAGE = {
    "name": "sum", "statement_tex": "Add.", "validation": None, "validator_flags": None,
    "tests": [{"kind": "sample", "name": "1", "input": "1 2\n", "answer": "3\n"},
              {"kind": "secret", "name": "1", "input": "3 4\n", "answer": "7\n"}],
}  # fmt: skip


def test_a_package(tmp_path: Path) -> None:
    (problem,) = read_packages(write(tmp_path / "a.jsonl.gz", PACKAGE), cpu_s=2.0)
    assert problem.public_tests[0].expected_stdout == "3\n"
    assert problem.private_tests[0].stdin == "3 4\n"
    assert problem.limits.cpu_s == 2.0


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("", {}),
        ("case_sensitive", {"ignore_case": False}),
        ("space_change_sensitive", {"exact_whitespace": True}),
        (
            "float_tolerance 1e-4",
            {"absolute_tolerance": 1e-4, "relative_tolerance": 1e-4, "integers_as_floats": True},
        ),
        ("float_relative_tolerance 1e-4", {"relative_tolerance": 1e-4, "integers_as_floats": True}),
    ],
)
def test_validator_flags(flags: str, wanted: dict[str, Any]) -> None:
    plain = {"ignore_case": True, "absolute_tolerance": 0.0, "relative_tolerance": 0.0}
    assert problem_of(PACKAGE | {"validator_flags": flags}, "a:1", 1.0).rule == OutputRule(**(plain | wanted))


def test_a_validator_of_its_own_is_the_checker() -> None:
    row = PACKAGE | {"validation": "custom", "checker": "exit(42)"}
    assert problem_of(row, "a:1", 1.0).rule == OutputRule(checker="exit(42)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": "custom"}, "a:1: has a validator of its own"),
        ({"validator_flags": "float_tolerance"}, "a:1: unknown validator flag 'float_tolerance'"),
        ({"validator_flags": "x"}, "a:1: unknown validator flag 'x'"),
        ({"tests": [{"kind": "sample"}]}, "a:1: lacks the field 'input'"),
    ],
)
def test_packages_that_cannot_be_used(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        problem_of(PACKAGE | change, "a:1", 1.0)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.jsonl cannot be read"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl.gz:2: found '3"):
        read_rows(write(tmp_path / "a.jsonl.gz", {}, 3))
    with pytest.raises(DataError, match=r"a.jsonl.gz:1: lacks the field 'entry_point'"):
        read_tasks(write(tmp_path / "a.jsonl.gz", {"task_id": "x"}))


@pytest.mark.parametrize(
    "name", ["nowhere", "no.such.Class", "pathlib.Path", "rlef_lightning.execution.Executor"]
)
def test_an_executor_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="executor"):
        make_executor(name, 1, 1)


def test_the_command_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    source, target = write(tmp_path / "a.jsonl.gz", HUMANEVAL, MBPP), tmp_path / "b.jsonl"
    done = run("tools.prepare.evalplus", str(source), str(target))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 problems with 7 tests written to {target}\n"
    first, second = map(json.loads, target.read_text().splitlines())
    assert first["private_tests"][2] == {"stdin": "(5,)", "expected_stdout": "6"}
    assert first["interface"]["function"] == "f"
    assert second["private_tests"] == second["public_tests"]
    assert second["public_tests"] == [{"stdin": "((1,), (1,))", "expected_stdout": "(1,)"}]
    failed = run("tools.prepare.kattis", str(source), str(target))
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert len(failed.stderr.splitlines()) == 1
