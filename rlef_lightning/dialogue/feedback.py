"""Tests + Report -> the next message.

Which tests are named and how long their texts may be; the wording is in prompts.py. Takes the
*public* tests only: this file never sees private ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlef_lightning.dialogue.prompts import Prompts
from rlef_lightning.types import Report, TestCase, TestResult, Verdict

_TEMPLATES: dict[Verdict, str] = {
    Verdict.ACCEPTED: "passed",
    Verdict.WRONG_ANSWER: "wrong_answer",
    Verdict.RUNTIME_ERROR: "exception",
    Verdict.SYNTAX_ERROR: "exception",
    Verdict.TIME_LIMIT: "time_limit",
    Verdict.MEMORY_LIMIT: "memory_limit",
    Verdict.OUTPUT_LIMIT: "output_limit",
}
_CUT = "[...]"


def render_first_message(prompts: Prompts, statement: str) -> str:
    """The first observation: the statement and how to answer (RLEF, sec. 2.1)."""
    return prompts.render("first", statement=statement)


def render_feedback(prompts: Prompts, tests: Sequence[TestCase], report: Report | None) -> str:
    """What the model is told after a response (RLEF, sec. 2.1 and app. C).

    `report` belongs to `tests`, one result each; None means that the response held no code. Only
    failed tests are listed unless `prompts.list_passing`; tests that were skipped never are.
    """
    if report is None:
        return prompts.render("no_code")
    if len(tests) != len(report.results):
        raise ValueError(f"{len(tests)} tests but {len(report.results)} results: they must belong together")
    lines = [
        _render_test(prompts, number, test, result)
        for number, (test, result) in enumerate(zip(tests, report.results, strict=True), start=1)
        if _is_listed(prompts, result)
    ][: prompts.max_listed_tests]
    results = prompts.render("separator").join(lines) if lines else prompts.render("all_passed")
    return prompts.render("feedback", results=results)


def _is_listed(prompts: Prompts, result: TestResult) -> bool:
    return result.verdict is not Verdict.SKIPPED and (prompts.list_passing or not result.passed)


def _render_test(prompts: Prompts, number: int, test: TestCase, result: TestResult) -> str:
    return prompts.render(
        _TEMPLATES[result.verdict],
        number=str(number),
        input=_head(prompts, test.stdin),
        expected=_head(prompts, test.expected_stdout),
        output=_head(prompts, result.stdout),
        traceback=_tail(prompts, result.stderr),
        error=_head(prompts, _last_line(result.stderr)),
    )


def _head(prompts: Prompts, text: str) -> str:
    """The beginning of a test's text: enough to see what went wrong, never a context full of numbers."""
    if prompts.strip_final_newline:
        text = text.removesuffix("\n")
    if len(text) <= prompts.max_test_chars:
        return text
    return text[: prompts.max_test_chars] + _CUT


def _tail(prompts: Prompts, traceback: str) -> str:
    """The end of a stack trace, where the exception is named."""
    if prompts.strip_final_newline:
        traceback = traceback.removesuffix("\n")
    if len(traceback) <= prompts.max_traceback_chars:
        return traceback
    return _CUT + traceback[-prompts.max_traceback_chars :]


def _last_line(text: str) -> str:
    return text.rstrip().rsplit("\n", 1)[-1].strip()
