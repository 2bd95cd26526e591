"""Small episodes, built from prompts and responses given as token ids."""

from __future__ import annotations

import pytest

from rlef_lightning.types import Completion, Episode, Report, StopReason, TestResult, Turn, Verdict


def make_report(*verdicts: Verdict) -> Report:
    return Report(
        results=tuple(
            TestResult(verdict=v, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0)
            for v in verdicts
        )
    )


def make_turn(prompt=(1, 2), response=(3,), verdict: Verdict | None = Verdict.WRONG_ANSWER) -> Turn:
    completion = Completion(
        token_ids=tuple(response),
        logprobs=tuple(-0.1 * (i + 1) for i in range(len(response))),
        finish_reason="stop",
        policy_version=0,
    )
    return Turn(
        prompt_token_ids=tuple(prompt),
        completion=completion,
        response="",
        code=None if verdict is None else "pass",
        public_report=None if verdict is None else make_report(verdict),
        feedback=None,
    )


def make_episode(*turns: Turn, private: Verdict | None = None) -> Episode:
    return Episode(
        problem_id="p",
        sample_index=0,
        seed=0,
        turns=turns,
        private_report=None if private is None else make_report(private),
        stop_reason=StopReason.TURN_LIMIT,
    )


@pytest.fixture
def turn():
    return make_turn


@pytest.fixture
def episode():
    return make_episode
