"""Evaluations: what n@k asks for, and what becomes of dropped episodes."""

from __future__ import annotations

from collections import Counter

import pytest

from rlef_lightning.errors import ConfigError
from rlef_lightning.evaluation import Evaluated, Evaluation, evaluation_metrics
from rlef_lightning.rollout import Collection, PlaySettings
from rlef_lightning.types import Completion, Episode, Report, StopReason, TestResult, Turn, Verdict


def result(verdict: Verdict) -> Report:
    one = TestResult(verdict=verdict, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0)
    return Report(results=(one,))


def episode(problem_id: str, sample_index: int, *, solved: bool) -> Episode:
    """One turn; a failed one fails its public test."""
    verdict = Verdict.ACCEPTED if solved else Verdict.WRONG_ANSWER
    turn = Turn(
        prompt_token_ids=(1,),
        completion=Completion(token_ids=(2,), logprobs=(0.0,), finish_reason="stop", policy_version=1),
        response="",
        code="pass",
        public_report=result(verdict),
        feedback=None,
    )
    return Episode(
        problem_id=problem_id,
        sample_index=sample_index,
        seed=0,
        turns=(turn,),
        private_report=result(Verdict.ACCEPTED) if solved else None,
        stop_reason=StopReason.PUBLIC_TESTS_PASSED if solved else StopReason.TURN_LIMIT,
    )


@pytest.mark.parametrize(
    ("evaluation", "named"),
    [
        (lambda: Evaluation(n=4, k=3), "n is 4"),
        (lambda: Evaluation(play=PlaySettings(turn_limit=5), k=3), "turn_limit=5"),
        (lambda: Evaluation(play=PlaySettings(turn_limit=1), k=3), "samples_per_problem is 1"),
        (lambda: Evaluation(n=10, k=100), "needs 33 episodes"),
    ],
)
def test_impossible_evaluations_are_refused(evaluation, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        evaluation()


def test_independent_samples_are_selected_by_the_public_tests() -> None:
    evaluation = Evaluation(play=PlaySettings(turn_limit=1, samples_per_problem=4))
    # One right answer in 4: of the 4 ways to leave one sample out, 3 keep it, and the public tests find it.
    episodes = tuple(episode("a", index, solved=index == 0) for index in range(4))
    collection = Collection(episodes=episodes, problems=1, dropped=Counter(), seconds=1.0)
    numbers = evaluation_metrics(
        Evaluated(name="x", evaluation=evaluation, collection=collection, parity=1e-6), "test/x"
    )
    assert numbers["test/x/solve_1at3"] == pytest.approx(0.75)
    assert numbers["test/x/problems_left_out"] == 0.0


def test_a_problem_with_too_few_episodes_is_left_out_and_counted() -> None:
    evaluation = Evaluation(play=PlaySettings(turn_limit=1, samples_per_problem=3))
    whole = [episode("whole", index, solved=True) for index in range(3)]
    torn = [episode("torn", index, solved=False) for index in range(2)]
    collection = Collection(episodes=(*whole, *torn), problems=2, dropped=Counter(executor=1), seconds=1.0)
    numbers = evaluation_metrics(
        Evaluated(name="x", evaluation=evaluation, collection=collection, parity=1e-6), "v"
    )
    assert numbers["v/solve_1at3"] == 1.0
    assert numbers["v/problems_left_out"] == 1.0
    assert numbers["v/dropped"] == 1.0
