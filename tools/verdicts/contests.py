"""Suites of programs on stdin and stdout: CodeContests and packages in the Kattis format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlef_lightning.problems import CodeContests
from rlef_lightning.types import Problem, TestCase, Verdict
from tools.prepare.files import read_rows
from tools.prepare.kattis import problem_of
from tools.verdicts.cases import REJECTED, Case, Suite

_PYTHON3 = 3
LOST_A_LINE = {("1056_D. Decorate Apple Tree", "1\n")}
"""(problem, input) of tests that miss an empty last line in the file; plain Python fails on them as well."""
WEAK_TESTS = "passes every test of its problem under plain Python, too: weak tests, or a wrong label"
_WEAK = ("1091_C. New Year and the Sphere Transmission", "1343_A. Candies")
KATTIS_CPU_S = 6.0
"""The data has no time limits. This one separates the accepted submissions from those that are too slow."""
SLOW_PACKAGES = {"profitabletrip": 200.0}
"""Seconds for packages whose accepted submissions need more; they have none that is too slow."""
_ENDLESS = "prints without end, and so breaks the output limit before the time limit"
_TWO_TESTS = "the data has the package's two sample tests only; it passes them under plain Python, too"
KATTIS_EXCEPTIONS = {
    "drinkingsong, time_limit_exceeded/infinitebottles.py": _ENDLESS,
    "drinkingsong, time_limit_exceeded/negativebottles.py": _ENDLESS,
    "elderscrollbar, time_limit_exceeded/elderscrollbar.py": _TWO_TESTS,
    "elderscrollbar, wrong_answer/searchforthumb.py": _TWO_TESTS,
    "elderscrollbar, run_time_exception/elderscrollbar.py": (
        "the data has the package's two sample tests only, on which it prints other lines and does not crash"
    ),
}
"""Submissions whose label cannot be expected here, with the reason."""
_LABELS = {
    "accepted": frozenset({Verdict.ACCEPTED}),
    "wrong_answer": frozenset({Verdict.WRONG_ANSWER}),
    "time_limit_exceeded": frozenset({Verdict.TIME_LIMIT}),
    "run_time_error": frozenset({Verdict.RUNTIME_ERROR}),
    "run_time_exception": frozenset({Verdict.RUNTIME_ERROR}),
}


def codecontests(path: Path) -> Suite:
    """Every Python 3 solution and incorrect solution of a parquet file, on all tests of its problem."""
    import pyarrow.parquet as pq

    problems = {problem.id: problem for problem in CodeContests(train=path).problems("train")}
    columns = ["name", "solutions", "incorrect_solutions"]
    cases: list[Case] = []
    for row in pq.read_table(path, columns=columns).to_pylist():
        for kind, wanted in (("solutions", _LABELS["accepted"]), ("incorrect_solutions", REJECTED)):
            cases += _cases(problems[row["name"]], row[kind], kind, wanted)
    return Suite(
        name="CodeContests",
        cases=cases,
        exceptions={f"{name}, incorrect_solutions 0": WEAK_TESTS for name in _WEAK},
        notes=[f"left out: the test of {name} with the input {stdin!r}, which has lost an empty line"
               for name, stdin in sorted(LOST_A_LINE)],
    )  # fmt: skip


def _cases(problem: Problem, programs: dict[str, Any], kind: str, wanted: frozenset[Verdict]) -> list[Case]:
    tests = [test for test in tests_of(problem) if (problem.id, test.stdin) not in LOST_A_LINE]
    pairs = zip(programs["language"], programs["solution"], strict=True)
    return [
        Case(name=f"{problem.id}, {kind} {number}", code=code, tests=tests, wanted=wanted,
             limits=problem.limits, rule=problem.rule)
        for number, code in enumerate(code for language, code in pairs if language == _PYTHON3)
    ]  # fmt: skip


def tests_of(problem: Problem) -> tuple[TestCase, ...]:
    """Public tests first, as in training; each once."""
    return tuple(dict.fromkeys(problem.public_tests + problem.private_tests))


def kattis(path: Path) -> Suite:
    """Every submission of every package, with the verdict that its folder was named after."""
    cases = []
    for number, row in enumerate(read_rows(path), start=1):
        cpu_s = SLOW_PACKAGES.get(row["name"], KATTIS_CPU_S)
        problem = problem_of(row, f"{path}:{number}", cpu_s)
        for submission in row["submissions"]:
            label = submission["label"]
            cases.append(
                Case(name=f"{problem.id}, {label}/{submission['file']}", code=submission["code"],
                     tests=tests_of(problem), wanted=_LABELS[label], limits=problem.limits, rule=problem.rule)
            )  # fmt: skip
    return Suite(name="Kattis packages", cases=cases, exceptions=KATTIS_EXCEPTIONS)
