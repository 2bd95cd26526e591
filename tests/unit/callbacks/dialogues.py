"""Invented problems and dialogues with text in them, for the report page."""

from __future__ import annotations

from collections.abc import Sequence

from rlef_lightning.types import (
    Completion,
    Episode,
    Problem,
    Report,
    StopReason,
    TestCase,
    TestResult,
    Turn,
    Verdict,
)

PRIVATE_OUTPUT = "424242-private"


def problem(problem_id: str, statement: str) -> Problem:
    """A problem with two public tests and three private ones."""
    return Problem(
        id=problem_id,
        statement=statement,
        public_tests=(TestCase(stdin="1 2\n", expected_stdout="3\n"),) * 2,
        private_tests=(TestCase(stdin="private-input\n", expected_stdout=PRIVATE_OUTPUT),) * 3,
    )


def report(verdicts: Sequence[Verdict], stdout: str = "") -> Report:
    """A report with these verdicts; every test printed `stdout`."""
    results = [
        TestResult(
            verdict=v, stdout=stdout, stderr=stdout, cpu_s=0.034, wall_s=0.05, peak_memory_bytes=9 << 20
        )
        for v in verdicts
    ]
    return Report(results=tuple(results))


def turn(
    response: str,
    code: str | None,
    verdicts: Sequence[Verdict] = (),
    feedback: str | None = None,
    finish: str = "stop",
) -> Turn:
    """A turn as it was written and judged."""
    return Turn(
        prompt_token_ids=(1,),
        completion=Completion(
            token_ids=(2, 3), logprobs=(-0.1, -0.2), finish_reason=finish, policy_version=1
        ),
        response=response,
        code=code,
        public_report=report(verdicts) if verdicts else None,
        feedback=feedback,
    )


def episode(problem_id: str, turns: Sequence[Turn], private: Sequence[Verdict] = ()) -> Episode:
    """A judged dialogue; private tests, where run, printed something that must stay private."""
    passed = turns[-1].passed_public
    return Episode(
        problem_id=problem_id,
        sample_index=0,
        seed=7,
        turns=tuple(turns),
        private_report=report(private, PRIVATE_OUTPUT) if private else None,
        stop_reason=StopReason.PUBLIC_TESTS_PASSED if passed else StopReason.TURN_LIMIT,
    )
