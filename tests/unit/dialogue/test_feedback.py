"""Feedback lists the failed public tests, each by what happened, then asks for another try."""

from __future__ import annotations

import dataclasses

import pytest

from rlef_lightning.dialogue import Prompts, render_feedback
from rlef_lightning.types import Report, TestCase, TestResult, Verdict

TERSE = Prompts(
    feedback="{results}",
    wrong_answer="in {input} want {expected} got {output}",
    exception="in {input} {error}",
    time_limit="in {input} slow",
    memory_limit="in {input} big",
    output_limit="in {input} long",
    passed="in {input} ok {output}",
    separator="; ",
    strip_final_newline=True,
)
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1\nZeroDivisionError: division by zero\n'


def result(verdict: Verdict, stdout: str = "", stderr: str = "") -> TestResult:
    return TestResult(
        verdict=verdict, stdout=stdout, stderr=stderr, cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0
    )


def feedback(prompts: Prompts, *results: TestResult) -> str:
    tests = [TestCase(stdin=f"{i}\n", expected_stdout=f"{i * i}\n") for i in range(len(results))]
    return render_feedback(prompts, tests, Report(results=results))


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (result(Verdict.WRONG_ANSWER, stdout="7\n"), "in 0 want 0 got 7"),
        (result(Verdict.RUNTIME_ERROR, stderr=TRACEBACK), "in 0 ZeroDivisionError: division by zero"),
        (result(Verdict.SYNTAX_ERROR, stderr="SyntaxError: bad\n"), "in 0 SyntaxError: bad"),
        (result(Verdict.TIME_LIMIT), "in 0 slow"),
        (result(Verdict.MEMORY_LIMIT), "in 0 big"),
        (result(Verdict.OUTPUT_LIMIT), "in 0 long"),
    ],
)
def test_each_failure_has_its_line(outcome: TestResult, expected: str) -> None:
    assert feedback(TERSE, outcome) == expected


def test_default_wrong_answer_shows_texts_with_their_newlines_in_order() -> None:
    text = feedback(Prompts(), result(Verdict.ACCEPTED), result(Verdict.WRONG_ANSWER, stdout="5\n"))
    assert "Test 2: wrong output.\nInput:\n1\n\nExpected output:\n1\n\nYour output:\n5\n" in text
    assert "Test 1" not in text
    assert text.index("Test 2") < text.index("another try") < text.index("```python")


@pytest.mark.parametrize("verdict", [Verdict.RUNTIME_ERROR, Verdict.SYNTAX_ERROR])
def test_default_exceptions_show_the_stack_trace(verdict: Verdict) -> None:
    text = feedback(Prompts(), result(verdict, stderr=TRACEBACK))
    assert "exception" in text
    assert TRACEBACK in text
    assert "Expected" not in text


def test_every_verdict_can_be_told_with_the_default_wording() -> None:
    for verdict in Verdict:
        assert feedback(Prompts(list_passing=True), result(verdict))


def test_passed_tests_are_listed_on_request_and_skipped_ones_never() -> None:
    results = (
        result(Verdict.ACCEPTED, "0\n"),
        result(Verdict.WRONG_ANSWER, "8\n"),
        result(Verdict.SKIPPED),
    )
    assert feedback(TERSE, *results) == "in 1 want 1 got 8"
    listing = dataclasses.replace(TERSE, list_passing=True)
    assert feedback(listing, *results) == "in 0 ok 0; in 1 want 1 got 8"


def test_number_of_listed_tests_is_limited() -> None:
    prompts = Prompts(feedback="{results}", time_limit="{number}", max_listed_tests=2)
    assert feedback(prompts, *[result(Verdict.TIME_LIMIT)] * 3) == "1\n2"


def test_long_texts_are_cut() -> None:
    prompts = Prompts(
        feedback="{results}",
        wrong_answer="{output}",
        exception="{traceback}",
        max_test_chars=3,
        max_traceback_chars=4,
    )
    assert feedback(prompts, result(Verdict.WRONG_ANSWER, stdout="12345")) == "123[...]"
    assert feedback(prompts, result(Verdict.WRONG_ANSWER, stdout="123")) == "123"
    assert feedback(prompts, result(Verdict.RUNTIME_ERROR, stderr="12345")) == "[...]2345"


def test_braces_in_outputs_are_inert() -> None:
    assert feedback(TERSE, result(Verdict.WRONG_ANSWER, stdout="{input} {")) == "in 0 want 0 got {input} {"


def test_no_code_says_so_and_repeats_the_format() -> None:
    text = render_feedback(Prompts(), [], None)
    assert "No program could be found" in text
    assert "```python" in text


def test_a_passed_report_says_so() -> None:
    assert "passed all" in feedback(Prompts(), result(Verdict.ACCEPTED))


def test_tests_and_results_must_belong_together() -> None:
    with pytest.raises(ValueError, match="2 tests but 1 results"):
        render_feedback(
            Prompts(),
            [TestCase(stdin="", expected_stdout="")] * 2,
            Report(results=(result(Verdict.ACCEPTED),)),
        )
