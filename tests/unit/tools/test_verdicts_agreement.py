"""Whether verdicts repeat and are right: the sample, the counting, and a short run of the command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlef_lightning.types import Limits, OutputRule, Report, TestCase, TestResult, Verdict
from tools.verdicts import agreement
from tools.verdicts.agreement import cut, one_of_each, sample, table, unexpected, verdicts
from tools.verdicts.cases import REJECTED, Case

ROOT = Path(__file__).parents[3]
RIGHT, WRONG = Verdict.ACCEPTED, Verdict.WRONG_ANSWER


def result(verdict: Verdict) -> TestResult:
    return TestResult(verdict=verdict, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0)


class Moody:
    """Rejects every other program that it is given."""

    def __init__(self) -> None:
        self.count = 0

    async def judge(self, code: str, tests: list[object], **_: object) -> Report:
        self.count += 1
        verdict = Verdict.ACCEPTED if self.count % 2 else Verdict.WRONG_ANSWER
        return Report(results=(result(verdict),) * len(tests))


def test_each_test_of_each_program_is_told_apart() -> None:
    cases = one_of_each()[:2]
    found = asyncio.run(verdicts(Moody(), cases, 1))  # type: ignore[arg-type]
    assert found == {(cases[0].name, 0): Verdict.ACCEPTED, (cases[1].name, 0): Verdict.WRONG_ANSWER}


def labelled(good: bool, tests: int = 3) -> Case:
    return Case(
        name="p", code="", tests=[TestCase(stdin=str(number), expected_stdout="") for number in range(tests)],
        wanted=frozenset({RIGHT}) if good else REJECTED, limits=Limits(), rule=OutputRule(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("case", "found", "tests"),
    [
        (labelled(True), [RIGHT, RIGHT, RIGHT], []),
        (labelled(True), [RIGHT, WRONG, WRONG], [1]),  # where it first fails
        (labelled(False), [RIGHT, RIGHT, WRONG], []),
        (labelled(False), [RIGHT, RIGHT, RIGHT], [2]),  # all its tests, and it fails none
        (cut(labelled(False), 2, excused=False), [RIGHT, RIGHT], []),  # it may fail the third
        (cut(labelled(False), 3, excused=False), [RIGHT, RIGHT, RIGHT], [2]),
        (cut(labelled(True), 2, excused=False), [RIGHT, WRONG], [1]),
        (cut(labelled(False), 3, excused=True), [RIGHT, RIGHT, RIGHT], []),
        (one_of_each()[1], [WRONG], []),
        (one_of_each()[1], [Verdict.RUNTIME_ERROR], [0]),  # rejected, but not by the verdict it is for
        (cut(one_of_each()[1], 1, excused=False), [RIGHT], [0]),
    ],
)
def test_what_goes_against_a_label(case: Case, found: list[Verdict], tests: list[int]) -> None:
    seen = {(case.name, number): verdict for number, verdict in enumerate(found)}
    assert [number for _, number in unexpected([case], seen)] == tests


class Wrong:
    """Accepts everything, always."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def judge(self, code: str, tests: list[object], **_: object) -> Report:
        return Report(results=(result(RIGHT),) * len(tests))


def test_a_wrong_verdict_that_is_always_the_same_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agreement, "make_executor", lambda *_: Wrong())
    command = ["agreement", "--data", str(tmp_path), "--repeats", "2", "--load", "1", "--backends",
               "Subprocess", "--json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        agreement.main()
    report = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert report["differing"] == []
    programs = {f"for {verdict.value}" for verdict in Verdict} - {"for accepted", "for skipped"}
    assert {one["program"] for one in report["unexpected"]} == programs
    assert all(one["verdicts"] == {"accepted": 4} for one in report["unexpected"])  # twice idle, twice busy


def test_there_is_a_program_for_each_verdict() -> None:
    wanted = set().union(*(case.wanted for case in one_of_each()))
    assert wanted == set(Verdict) - {Verdict.SKIPPED}


def test_without_data_the_sample_is_one_of_each(tmp_path: Path) -> None:
    cases = asyncio.run(sample(tmp_path, 10, 6, Wrong()))  # type: ignore[arg-type]
    assert [case.name for case in cases] == [case.name for case in one_of_each()]


def test_the_table_names_what_differs() -> None:
    report = {
        "programs": 1, "tests": 1, "repeats": 2, "runs": 4, "verdicts": {"accepted": 1, "wrong answer": 1},
        "differing": [{"program": "p", "test": 0, "verdicts": {"accepted": 3, "wrong answer": 1}}],
        "unexpected": [{"program": "q", "test": 2, "verdicts": {"accepted": 4}}],
        "backends": [{"backend": "Nsjail", "load": 4, "seconds": 1.25}],
    }  # fmt: skip
    text = table(report)
    assert "1 tests with more than one verdict, 1 with an unexpected one" in text
    assert "- unexpected: q, test 2: {'accepted': 4}" in text
    assert "- differing: p, test 0: {'accepted': 3, 'wrong answer': 1}" in text
    assert "| Nsjail | 4 | 2 | 1 |" in text


@pytest.mark.slow
def test_the_verdicts_for_which_programs_were_written(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "tools.verdicts.agreement", "--data", str(tmp_path), "--repeats", "2",
        "--load", "1", "--backends", "Subprocess", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["verdicts"] == {verdict.value: 1 for verdict in Verdict if verdict is not Verdict.SKIPPED}
    assert report["runs"] == 7 * 2 * 2
