"""Hand-built episodes: a turn is a code and its public verdicts, an episode is its turns."""

from __future__ import annotations

from collections.abc import Sequence

from rlef_lightning.types import Completion, Episode, Report, StopReason, TestResult, Turn, Verdict

OK, WRONG, CRASH, SLOW = Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR, Verdict.TIME_LIMIT


def report(*verdicts: Verdict) -> Report:
    """A report with these verdicts and nothing else of interest."""
    results = [
        TestResult(verdict=v, stdout="", stderr="", cpu_s=0.01, wall_s=0.02, peak_memory_bytes=1 << 20)
        for v in verdicts
    ]
    return Report(results=tuple(results))


def turn(*verdicts: Verdict, code: str | None = "print(1)") -> Turn:
    """A turn with these public verdicts; with none, a response without code."""
    return Turn(
        prompt_token_ids=(1, 2),
        completion=Completion(token_ids=(3,), logprobs=(-0.5,), finish_reason="stop", policy_version=0),
        response=code or "I do not know.",
        code=code if verdicts else None,
        public_report=report(*verdicts) if verdicts else None,
        feedback=None,
    )


def episode(
    problem_id: str, turns: Sequence[Turn], *, private: Sequence[Verdict] = (), sample_index: int = 0
) -> Episode:
    """An episode that stops as the paper's do: at the first public pass, else at its last turn."""
    stop = StopReason.PUBLIC_TESTS_PASSED if turns[-1].passed_public else StopReason.TURN_LIMIT
    return Episode(
        problem_id=problem_id,
        sample_index=sample_index,
        seed=sample_index,
        turns=tuple(turns),
        private_report=report(*private) if private else None,
        stop_reason=stop,
    )


def solved(problem_id: str, turns_before: int = 0) -> Episode:
    """Solved after so many wrong turns."""
    return episode(problem_id, [turn(WRONG)] * turns_before + [turn(OK)], private=[OK])


def passed_public_only(problem_id: str) -> Episode:
    """Passes the public tests, fails a private one."""
    return episode(problem_id, [turn(OK)], private=[OK, WRONG])


def failed(problem_id: str) -> Episode:
    """Never passes a public test, in three turns."""
    return episode(problem_id, [turn(WRONG)] * 3)
