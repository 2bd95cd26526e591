"""The order of verdicts on made-up facts, and the order of tests; no process is started."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

import pytest

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.judge import Solution, at_most, judge_tests
from rlef_lightning.execution.runs import Run, RunFacts
from rlef_lightning.types import Interface, Limits, OutputRule, Report, TestCase, TestResult, Verdict

LIMITS = Limits(cpu_s=1.0)
GOOD = RunFacts(
    stage="r", status=0, stopped=None, cpu_s=0.1, wall_s=0.1, peak_memory_bytes=1 << 20, strays=0,
    stdout=b"7\n", stderr=b"",
)  # fmt: skip


PLAIN = Solution(code=b"", limits=LIMITS, rule=OutputRule())


def judge_one(
    ends: list[RunFacts], test: tuple[str, str] = ("", "7"), solution: Solution = PLAIN, chars: int = 99
) -> TestResult:
    """One test, whose runs end like `ends`, one after the other; fails when there are more runs."""
    return judge_runs(ends, [test], solution, chars)[0].results[0]


def judge_runs(
    ends: list[RunFacts], tests: list[tuple[str, str]], solution: Solution = PLAIN, chars: int = 99
) -> tuple[Report, list[Run]]:
    """As `judge_one` for tests in order; also the runs that were asked for."""
    runs: list[Run] = []

    async def runner(run: Run) -> RunFacts:
        runs.append(run)
        return ends[len(runs) - 1]

    cases = [TestCase(stdin=stdin, expected_stdout=expected) for stdin, expected in tests]
    report = asyncio.run(judge_tests(runner, solution, cases, stop_at_first_failure=False, chars=chars))
    return report, runs


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, Verdict.ACCEPTED),
        ({"stdout": b"8\n"}, Verdict.WRONG_ANSWER),
        ({"stage": "s", "status": 1}, Verdict.SYNTAX_ERROR),
        ({"status": 1}, Verdict.RUNTIME_ERROR),
        ({"status": -signal.SIGSEGV}, Verdict.RUNTIME_ERROR),
        ({"stage": "c"}, Verdict.RUNTIME_ERROR),  # the compiler itself crashed
        ({"stopped": "processes", "status": -signal.SIGKILL}, Verdict.RUNTIME_ERROR),
        ({"stopped": "cpu", "status": -signal.SIGKILL}, Verdict.TIME_LIMIT),
        ({"stopped": "wall", "status": -signal.SIGKILL}, Verdict.TIME_LIMIT),
        ({"cpu_s": 1.01}, Verdict.TIME_LIMIT),
        ({"cpu_s": 2.1, "status": -signal.SIGKILL}, Verdict.TIME_LIMIT),  # the kernel's backup limit
        ({"status": -signal.SIGXCPU}, Verdict.TIME_LIMIT),
        ({"status": -signal.SIGUSR2}, Verdict.MEMORY_LIMIT),
        ({"status": -signal.SIGKILL}, Verdict.RUNTIME_ERROR),  # no sign that memory was the reason
        ({"status": -signal.SIGKILL, "peak_memory_bytes": LIMITS.memory_bytes}, Verdict.MEMORY_LIMIT),
        ({"status": -signal.SIGUSR2, "cpu_s": 1.05}, Verdict.MEMORY_LIMIT),  # memory comes before time
        ({"stage": "m", "status": 1, "cpu_s": 1.05}, Verdict.MEMORY_LIMIT),
        (
            {"status": -signal.SIGKILL, "peak_memory_bytes": LIMITS.memory_bytes, "cpu_s": 2.1},
            Verdict.TIME_LIMIT,  # the kernel's backup limit on CPU kills by the same signal
        ),
        ({"stopped": "memory", "status": -signal.SIGKILL}, Verdict.MEMORY_LIMIT),
        ({"stage": "m", "status": 1}, Verdict.MEMORY_LIMIT),
        ({"status": -signal.SIGSEGV, "peak_memory_bytes": LIMITS.memory_bytes}, Verdict.MEMORY_LIMIT),
        ({"stopped": "output", "status": -signal.SIGKILL, "cpu_s": 9.0}, Verdict.OUTPUT_LIMIT),
        ({"stage": "s", "status": 1, "cpu_s": 1.5}, Verdict.TIME_LIMIT),
    ],
)
def test_first_verdict_that_applies(changes: dict[str, object], wanted: Verdict) -> None:
    facts = replace(GOOD, **changes)
    assert judge_one([facts, facts]).verdict is wanted


def test_reports_keep_the_head_of_stdout_and_the_tail_of_stderr() -> None:
    facts = replace(GOOD, stdout="é".encode() * 100 + b"\xff", stderr=b"first" + b"x" * 50 + "ü".encode())
    result = judge_one([facts], chars=10)
    assert result.stdout == "é" * 10
    assert result.stderr == "x" * 9 + "ü"


def judge(outputs: list[bytes], stop: bool) -> tuple[Report, list[str]]:
    """Judges tests 0, 1, ... whose right answer is 7; also the inputs in the order of their runs."""
    order: list[str] = []

    async def runner(run: Run) -> RunFacts:
        order.append(run.stdin.decode())
        return replace(GOOD, stdout=outputs[int(run.stdin)])

    tests = [TestCase(stdin=str(i), expected_stdout="7") for i in range(len(outputs))]
    report = asyncio.run(judge_tests(runner, PLAIN, tests, stop_at_first_failure=stop, chars=99))
    return report, order


def test_stops_at_the_first_failure() -> None:
    report, order = judge([b"7", b"8", b"7"], stop=True)
    assert order == ["0", "1"]
    assert [r.verdict for r in report.results] == [Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.SKIPPED]
    assert report.first_failure is Verdict.WRONG_ANSWER


def test_runs_all_tests_otherwise() -> None:
    report, order = judge([b"7", b"8", b"7"], stop=False)
    assert order == ["0", "1", "2"]
    assert [r.passed for r in report.results] == [True, False, True]


SLOW = replace(GOOD, cpu_s=1.05, stdout=b"7")
FAST = replace(GOOD, cpu_s=0.95, stdout=b"7")
STARVED = replace(GOOD, stopped="wall", cpu_s=0.4, wall_s=10.0, starved_s=5.0)


def test_a_near_time_out_is_confirmed_alone() -> None:
    report, runs = judge_runs([SLOW, FAST], [("", "7")])
    assert report.results[0].verdict is Verdict.ACCEPTED
    assert [run.alone for run in runs] == [False, True]
    assert judge_one([SLOW, SLOW]).verdict is Verdict.TIME_LIMIT


def test_programs_may_run_a_little_beyond_their_limit_so_that_near_ends_are_seen() -> None:
    _, runs = judge_runs([FAST], [("", "7")])
    assert runs[0].limits == replace(LIMITS, cpu_s=1.1)


def test_a_solution_that_is_too_slow_alone_is_not_confirmed_again() -> None:
    report, runs = judge_runs([SLOW, SLOW, SLOW, SLOW], [("", "7")] * 3)
    assert [r.verdict for r in report.results] == [Verdict.TIME_LIMIT] * 3
    assert sum(run.alone for run in runs) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"stopped": "cpu", "cpu_s": 1.11, "status": -signal.SIGKILL},  # still running: no near end
        {"cpu_s": 1.2},
        {"stopped": "wall", "cpu_s": 0.1, "wall_s": 10.0, "starved_s": 0.5},  # it slept
        {"stopped": "wall", "cpu_s": 1.02, "wall_s": 10.0, "starved_s": 8.0},
        {"stopped": "output", "cpu_s": 1.05},
    ],
)
def test_other_ends_are_believed_at_once(changes: dict[str, object]) -> None:
    assert not judge_one([replace(GOOD, **changes)]).passed


def test_a_program_that_waited_for_a_processor_gets_a_second_run() -> None:
    assert judge_one([STARVED, FAST]).passed
    assert judge_one([STARVED, STARVED, FAST]).passed
    asleep = replace(STARVED, starved_s=0.0)
    assert judge_one([STARVED, asleep]).verdict is Verdict.TIME_LIMIT


def test_a_program_that_gets_no_processor_even_alone_is_no_verdict() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        judge_one([STARVED] * 4)  # as usual, then three times alone
    assert "5 of 10 s for a processor" in str(caught.value.exceptions[0])


def test_a_starved_run_of_a_slow_solution_is_not_believed_either() -> None:
    report, runs = judge_runs([SLOW, SLOW, STARVED, FAST], [("", "7")] * 2)
    assert [r.verdict for r in report.results] == [Verdict.TIME_LIMIT, Verdict.ACCEPTED]
    assert [run.alone for run in runs] == [False, True, False, True]


def test_processes_that_keep_each_other_waiting_are_believed() -> None:
    """Half of 2 s waited, and as much computed meanwhile: by its own other processes."""
    crowd = replace(GOOD, stopped="wall", cpu_s=1.0, wall_s=2.0, starved_s=1.0)
    assert judge_one([crowd, crowd]).verdict is Verdict.TIME_LIMIT


def test_a_kill_from_outside_gets_a_second_run() -> None:
    killed = replace(GOOD, status=-signal.SIGKILL)
    assert judge_one([killed, GOOD]).passed
    assert judge_one([killed, killed]).verdict is Verdict.RUNTIME_ERROR


CHECKED = Solution(code=b"", limits=LIMITS, rule=OutputRule(checker="the checker"))


@pytest.mark.parametrize(("status", "wanted"), [(42, Verdict.ACCEPTED), (43, Verdict.WRONG_ANSWER)])
def test_a_checker_decides(status: int, wanted: Verdict) -> None:
    report, runs = judge_runs([GOOD, replace(GOOD, status=status)], [("in", "out")], CHECKED)
    assert report.results[0].verdict is wanted
    assert report.results[0].stdout == "7\n"
    assert runs[0].extras.files == {}
    assert runs[1].code == b"the checker"
    assert runs[1].stdin == b"7\n"
    assert runs[1].extras.arguments == ("input", "answer", "feedback/")
    assert runs[1].extras.files == {"input": b"in", "answer": b"out", "feedback/": b""}


@pytest.mark.parametrize(
    "changes", [{"status": 0}, {"status": 1}, {"status": 42, "stopped": "wall"}, {"stage": "s", "status": 42}]
)
def test_a_checker_that_fails_is_no_verdict(changes: dict[str, object]) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        judge_one([GOOD, replace(GOOD, **changes)], solution=CHECKED)
    (error,) = caught.value.exceptions
    assert isinstance(error, ExecutorError)
    assert "rule.checker" in str(error)


def test_a_failed_program_is_not_checked() -> None:
    assert judge_one([replace(GOOD, status=1)], solution=CHECKED).verdict is Verdict.RUNTIME_ERROR


FUNCTION = Solution(code=b"", limits=LIMITS, rule=OutputRule(), interface=Interface(function="f"))


def test_a_function_gets_its_arguments_and_gives_its_value() -> None:
    facts = replace(GOOD, stdout=b'["tuple",1,"a"]')
    report, runs = judge_runs([facts], [("([1], {'k': None})", "(1, 'a')")], FUNCTION)
    assert report.results[0].verdict is Verdict.ACCEPTED
    assert report.results[0].stdout == "(1, 'a')"
    assert runs[0].stdin == b'["tuple",["list",1],["dict","k",null]]'
    assert runs[0].extras.function == "f"


@pytest.mark.parametrize(
    ("test", "field"),
    [(("3", "3"), "stdin"), (("(x,)", "3"), "stdin"), (("(3,)", "f(3)"), "expected_stdout")],
)
def test_a_test_without_literals_is_no_verdict(test: tuple[str, str], field: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        judge_one([replace(GOOD, stdout=b"3")], test, FUNCTION)
    assert field in str(caught.value.exceptions[0])


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{}",
        b"[]",
        b"7 7",
        b"[[7]]",
        b'["int"]',
        b'["dict",1]',
        b"[" * 5000,
        b'["set",["list"]]',
        b"\xff",
    ],
)
def test_a_malformed_value_is_wrong(sent: bytes) -> None:
    for expected in ("7", "{7}", "{7: 7}", "[7]", "'7'", "b'7'"):
        assert judge_one([replace(GOOD, stdout=sent)], ("()", expected), FUNCTION).verdict is (
            Verdict.WRONG_ANSWER
        )


def test_files_take_the_place_of_the_streams() -> None:
    files = replace(PLAIN, interface=Interface(input_file="a.in", output_file="a.out"))
    report, runs = judge_runs([GOOD], [("3", "7")], files)
    assert report.passed
    assert runs[0].stdin == b""
    assert runs[0].extras.files == {"a.in": b"3"}
    assert runs[0].extras.output_file == "a.out"


@pytest.mark.parametrize(("count", "wanted"), [(None, 5), (2, 2), (9, 5)])
def test_a_solution_has_so_many_runs_at_a_time(count: int | None, wanted: int) -> None:
    at_once: list[int] = [0]

    async def runner(run: Run) -> RunFacts:
        at_once.append(at_once[-1] + 1)
        await asyncio.sleep(0)
        at_once.append(at_once[-1] - 1)
        return replace(GOOD, stdout=b"7")

    tests = [TestCase(stdin="", expected_stdout="7")] * 5
    judging = judge_tests(at_most(count, runner), PLAIN, tests, stop_at_first_failure=False, chars=9)
    assert asyncio.run(judging).passed
    assert max(at_once) == wanted
