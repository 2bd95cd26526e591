"""The report on labelled programs: asserts as observations, counts, exceptions, the exit code."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlef_lightning.types import Limits, OutputRule, Report, TestCase, TestResult, Verdict
from tools.verdicts.__main__ import summary, table
from tools.verdicts.cases import REJECTED, Case, Suite, judged
from tools.verdicts.observations import FUNCTION, observe

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"


def seen(solution: str, tests: str) -> tuple[dict[int, Any], dict[int, Any], int]:
    """What the program saw, what it should have seen, and the asserts decided inside."""
    code, expected, inside = observe(solution, tests)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    return namespace[FUNCTION](), expected, inside


def test_asserts_become_observations() -> None:
    tests = (
        "assert f(3) == 4\nassert f(3) == 99\nassert list(map(f, [1])) == [2]\nassert abs(f(1) - 2) <= 0.1"
    )
    found, expected, inside = seen("def f(x): return x + 1", tests)
    assert found == {0: 4, 1: 4, 2: [2], 3: True}
    assert expected == {0: 4, 1: 99, 2: [2], 3: True}
    assert inside == 1


def test_asserts_in_test_functions() -> None:
    tests = (
        "def test1():\n    expected = {1: float('inf')}\n    result = f(1)\n    assert result == expected\n"
        "def test2():\n    expected = 5\n    found = f(0)\n    assert not found\n"
        "    assert f(4) == expected\ntest2()\ntest1()"
    )
    code, expected, inside = observe("def f(x): return x", tests)
    assert expected == {0: {1: float("inf")}, 1: False, 2: 5}
    assert inside == 0
    assert "inf" not in code
    assert "5" not in code
    assert seen("def f(x): return x", tests)[0] == {1: False, 2: 4, 0: 1}


def test_an_assert_in_a_loop_is_true_when_it_is_so_every_time() -> None:
    tests = (
        "def check(candidate):\n    for x in (1, 2, 3):\n        assert candidate(x) == x\n"
        "        assert candidate(x) < 4\n    assert True, 'nothing is seen'\n"
        "    assert candidate(1) == 1\ncheck(f)"
    )
    found, expected, inside = seen("def f(x): return x + (x == 2)", tests)
    assert found == {0: False, 1: True, 2: 1}  # wrong in the second of three rounds only
    assert expected == {0: True, 1: True, 2: 1}
    assert inside == 2


def case(name: str, wanted: frozenset[Verdict]) -> Case:
    test = TestCase(stdin="", expected_stdout="")
    return Case(name=name, code="", tests=[test, test], wanted=wanted, limits=Limits(), rule=OutputRule())


def report(verdict: Verdict) -> Report:
    result = TestResult(verdict=verdict, stdout="o", stderr="e", cpu_s=0.5, wall_s=1.0, peak_memory_bytes=1)
    return Report(results=(result,))


def test_the_counts_of_a_suite() -> None:
    right = frozenset({Verdict.ACCEPTED})
    suite = Suite(name="s", cases=[], exceptions={"weak": "weak tests"}, notes=["a note"])
    ends = [
        (case("good", right), Verdict.ACCEPTED),
        (case("missed", right), Verdict.TIME_LIMIT),
        (case("bad", REJECTED), Verdict.WRONG_ANSWER),
        (case("weak", REJECTED), Verdict.ACCEPTED),
        (case("slow", frozenset({Verdict.TIME_LIMIT})), Verdict.RUNTIME_ERROR),
    ]
    row = summary(suite, [judged(suite, one, report(end)) for one, end in ends], seconds=2.0, workers=2)
    assert (row["labelled_right"], row["accepted_of_them"]) == (2, 1)
    assert (row["labelled_wrong"], row["rejected_of_them"]) == (3, 1)
    assert [one["case"] for one in row["unexplained"]] == ["missed", "slow"]
    assert [(one["case"], one["reason"]) for one in row["excused"]] == [("weak", "weak tests")]
    assert row["share_of_own_cpu"] == 0.625  # 5 runs of 0.5 s in 2 s on 2 workers
    text = table({"suites": [row], "absent": ["x.gz"]})
    assert "| s | 1 of 2 | 1 of 3 | 5 |" in text
    assert "Unexplained: 2\n- s: missed: accepted, found time_limit." in text
    assert "Known exceptions: 1\n- s: weak: rejected, found accepted. weak tests" in text
    assert text.endswith("- s: a note\n- not judged, as the file is absent: x.gz")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.verdicts", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_label_that_is_not_met_ends_with_code_1(tmp_path: Path) -> None:
    row = {
        "name": "one",
        "tests": "assert one() == 1",
        "solution": "def one(): return 2",
        "buggy_program": "one = 1",
    }
    with gzip.open(tmp_path / "quixbugs_python.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    done = run("--data", str(tmp_path), "--json", "--workers", "1")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["unexplained"] == 1
    assert found["suites"][0]["unexplained"][0]["verdict"] == "wrong_answer"
    assert "judged.jsonl.gz" in found["absent"]


def test_a_canonical_solution_against_its_own_test_ends_with_code_1(tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/0",
        "entry_point": "one",
        "prompt": "def one():\n",
        "canonical_solution": "    return 2\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "base_input": [[]],
        "plus_input": [[]],
        "atol": 0,
    }
    with gzip.open(tmp_path / "HumanEvalPlus.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    done = run("--data", str(tmp_path), "--json", "--workers", "1")
    assert done.returncode == 1, done.stderr
    (suite,) = json.loads(done.stdout)["suites"]
    assert suite["labelled_right"] == 2  # on the values that it computed itself, and on its test's
    assert [one["case"] for one in suite["unexplained"]] == ["HumanEval/0, asserts"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--data", "nowhere"], "nowhere is no folder"), (["--data", ".", "--workers", "0"], "at least 1"),
     (["--data", "docs"], "docs holds none of")],
)  # fmt: skip
def test_bad_arguments(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def judge_real_data(*arguments: str) -> dict[str, Any]:
    if not DATA.is_dir():
        pytest.skip("the folder shared/data with real problems is not there")
    pytest.importorskip("pyarrow")
    done = run("--data", str(DATA), "--json", *arguments)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_third_of_all_real_data_agrees_with_its_labels() -> None:
    """All of it takes minutes more: by the command of docs/verdicts.md."""
    report = judge_real_data("--every", "3", "--plus-tests", "3")
    assert report["absent"] == []
    assert report["unexplained"] == 0, report["suites"]
    judged = {row["suite"]: row["labelled_right"] + row["labelled_wrong"] for row in report["suites"]}
    # A third, rounded up, of 171 + 13, 18 + 19, 40 + 40, 2 * 378, 2 * 164 and 164 + 164 programs.
    assert judged == {
        "CodeContests": 62, "Kattis packages": 13, "QuixBugs": 27, "MBPP+": 252, "HumanEval+": 110,
        "HumanEvalPack": 110,
    }  # fmt: skip
    assert any(row["labelled_wrong"] for row in report["suites"])
    assert sum(len(row["excused"]) for row in report["suites"]) <= 7
