"""Whether verdicts repeat: the sample, the counting, and a short run of the command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlef_lightning.types import Report, TestResult, Verdict
from tools.verdicts.agreement import one_of_each, sample, table, verdicts

ROOT = Path(__file__).parents[3]


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


def test_there_is_a_program_for_each_verdict() -> None:
    wanted = set().union(*(case.wanted for case in one_of_each()))
    assert wanted == set(Verdict) - {Verdict.SKIPPED}


def test_without_data_the_sample_is_one_of_each(tmp_path: Path) -> None:
    assert [case.name for case in sample(tmp_path, 10, 6)] == [case.name for case in one_of_each()]


def test_the_table_names_what_differs() -> None:
    report = {
        "programs": 1, "tests": 1, "repeats": 2, "runs": 4, "verdicts": {"accepted": 1, "wrong answer": 1},
        "differing": [{"program": "p", "test": 0, "verdicts": {"accepted": 3, "wrong answer": 1}}],
        "backends": [{"backend": "Nsjail", "load": 4, "seconds": 1.25}],
    }  # fmt: skip
    text = table(report)
    assert "1 tests with more than one verdict" in text
    assert "- p, test 0: {'accepted': 3, 'wrong answer': 1}" in text
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
