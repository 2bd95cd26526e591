"""The benchmarks of the executor: they run to their end, count right, and notice what is not flat."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlef_lightning.types import Report, TestCase, TestResult, Verdict
from tools.bench import executor as benchmark
from tools.bench import plain, soak

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1 << 20
EVEN = soak.Snapshot(
    runs=0, own_rss_bytes=100 * MEBIBYTE, daemon_rss_bytes=20 * MEBIBYTE, other_rss_bytes=30 * MEBIBYTE,
    fds=30, processes=3, files=4,
)  # fmt: skip


def last_line(*command: str) -> dict[str, object]:
    """What a benchmark prints last."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


class Echo:
    """In place of an executor: each test's number as it is expected, but for what `answers` says."""

    def __init__(self, answers: dict[str, str]):
        self.answers = answers

    async def judge(self, code: str, tests: Sequence[TestCase], **_: object) -> Report:
        printed = [self.answers.get(test.expected_stdout, test.expected_stdout) for test in tests]
        return Report(
            results=tuple(
                TestResult(
                    verdict=Verdict.ACCEPTED, stdout=text, stderr="", cpu_s=0.0, wall_s=0.0,
                    peak_memory_bytes=0,
                )
                for text in printed
            )
        )  # fmt: skip


def mistakes(answers: dict[str, str]) -> Counter[str]:
    return asyncio.run(soak.judge_all(Echo(answers), range(100, 130)))  # type: ignore[arg-type]


def test_right_results_are_no_mistakes() -> None:
    assert not +mistakes({})


def test_a_result_given_to_another_test_is_wrong_lost_and_doubled() -> None:
    assert mistakes({"117\n": "105\n"}) == Counter(wrong=1, lost=1, doubled=1)


def test_swapped_results_are_wrong() -> None:
    assert +mistakes({"117\n": "105\n", "105\n": "117\n"}) == Counter(wrong=2)


def test_flat_is_flat() -> None:
    assert soak.unflat([EVEN] * 11) == []


def test_growth_before_the_first_tenth_is_the_start() -> None:
    assert soak.unflat([EVEN, *[replace(EVEN, fds=40, files=9, own_rss_bytes=300 * MEBIBYTE)] * 10]) == []


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (replace(EVEN, fds=31), "fds: 30 -> 31"),
        (replace(EVEN, processes=4), "processes: 3 -> 4"),
        (replace(EVEN, processes=2), "processes: 3 -> 2"),
        (replace(EVEN, files=5), "files: 4 -> 5"),
        (replace(EVEN, daemon_rss_bytes=24 * MEBIBYTE), "daemon_rss_bytes: 20971520 -> 25165824"),
    ],
)
def test_each_kind_of_growth_is_named(last: soak.Snapshot, said: str) -> None:
    assert soak.unflat([*[EVEN] * 10, last]) == [said]


def test_memory_may_grow_by_a_twentieth_and_two_mebibytes() -> None:
    assert soak.unflat([*[EVEN] * 10, replace(EVEN, own_rss_bytes=107 * MEBIBYTE)]) == []
    assert soak.unflat([*[EVEN] * 10, replace(EVEN, own_rss_bytes=107 * MEBIBYTE + 1)]) != []


def test_ratios_are_medians_of_the_rounds_own_ratios() -> None:
    names = ("runs_per_s_at_4x", "isolated_runs_per_s", "beyond_cpu_ms", "judge_ms")
    rest = dict.fromkeys(names, 1.0) | {"base_subprocess_runs_per_s": 200.0}
    rounds = [  # a machine that is twice as slow in one round, and ten times in another
        {"runs_per_s": 900.0, "subprocess_runs_per_s": 100.0, "overhead_ms": 2.0, "fork_ms": 1.0, **rest},
        {"runs_per_s": 400.0, "subprocess_runs_per_s": 50.0, "overhead_ms": 6.0, "fork_ms": 2.0, **rest},
        {"runs_per_s": 70.0, "subprocess_runs_per_s": 10.0, "overhead_ms": 40.0, "fork_ms": 10.0, **rest},
    ]
    found = benchmark.summarise(rounds)
    assert (found["runs_per_s"], found["vs_subprocess"], found["overhead_over_fork"]) == (400.0, 8.0, 3.0)
    assert found["vs_base_subprocess"] == 2.0  # of 4.5, 2 and 0.35
    assert found["nsjail_per_run_runs_per_s"] is None
    assert found["vs_nsjail_per_run"] is None


def test_the_base_interpreter_has_no_environment_around_it() -> None:
    command = plain.python_command(
        "import sys; print(sys.prefix == sys.base_prefix)", python=plain.base_python()
    )
    plain.run_once(command, b"", b"True\n")
    version = "import sys; print(sys.version)"
    command = plain.python_command(version, python=plain.base_python())
    plain.run_once(command, b"", sys.version.encode() + b"\n")  # the same Python, so that rates compare


def test_a_plain_start_that_prints_something_else_ends_the_benchmark() -> None:
    plain.run_once([sys.executable, "-c", "print(7)"], b"", b"7\n")
    with pytest.raises(SystemExit, match="ended with 0: b'8"):
        plain.run_once([sys.executable, "-c", "print(8)"], b"", b"7\n")


def test_a_backend_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("rlef_lightning.execution.SubprocessExecutor")
    with pytest.raises(SystemExit, match=r"--backend subprocess: .* has no SubprocessExecutor"):
        benchmark.started("subprocess", 1).send(None)


@pytest.mark.slow
def test_the_benchmark_prints_all_its_numbers() -> None:
    found = last_line("tools/bench/executor.py", "--json", "--rounds", "1", "--runs", "16", "--problems", "2")
    positive = ("runs_per_s", "subprocess_runs_per_s", "isolated_runs_per_s", "overhead_ms_median",
                "fork_ms_median", "vs_subprocess", "overhead_over_fork", "growth",
                "base_subprocess_runs_per_s", "vs_base_subprocess")  # fmt: skip
    for name in positive:
        value = found[name]
        assert isinstance(value, float)
        assert value > 0
    assert (found["nsjail_per_run_runs_per_s"] is None) == (plain.nsjail_command("") is None)
    contests = found["codecontests"]
    if contests is not None:
        assert isinstance(contests, dict)
        assert contests["not_accepted"] == 0
        assert 0 < contests["program_share"] <= 1


@pytest.mark.slow
def test_two_thousand_runs_stay_flat_and_lose_nothing() -> None:
    found = last_line("tools/bench/soak.py", "--json", "--runs", "2000")
    assert (found["wrong"], found["lost"], found["doubled"], found["grown"]) == (0, 0, 0, [])
    assert found["flat"] is True
