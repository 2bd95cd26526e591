"""Where values are read, and that nothing of a feedback token ever enters a score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlef_lightning.learning.objectives import TokenValuePPO
from rlef_lightning.learning.packing import PackedSequences, collate_sequences
from rlef_lightning.learning.samples import episode_sequence, to_training_sample
from rlef_lightning.module import RLEFModule
from rlef_lightning.scoring import Networks
from rlef_lightning.stopping import Stopped
from rlef_lightning.types import (
    Completion,
    Episode,
    Report,
    StopReason,
    TestResult,
    TrainingSample,
    Turn,
    Verdict,
)
from tests.small_runs import episodes, model_folder

FAILED = Report(
    results=(
        TestResult(
            verdict=Verdict.WRONG_ANSWER, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0
        ),
    )
)


def turn(prompt: range, response: range) -> Turn:
    ids = tuple(response)
    return Turn(
        prompt_token_ids=tuple(prompt),
        completion=Completion(
            token_ids=ids, logprobs=(-1.0,) * len(ids), finish_reason="stop", policy_version=0
        ),
        response="",
        code="pass",
        public_report=FAILED,
        feedback=None,
    )


# 3 tokens of statement, 2 of response, 4 of feedback, 3 of response.
DIALOGUE = Episode(
    problem_id="p",
    sample_index=0,
    seed=0,
    turns=(turn(range(3), range(3, 5)), turn(range(9), range(9, 12))),
    private_report=None,
    stop_reason=StopReason.TURN_LIMIT,
)
READ = (2, 3, 8, 9, 10)
"""The places before the response tokens: the last of a prompt, and all but the last of a response."""


class Table:
    """A value network whose value of each place is written down."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, packed: PackedSequences) -> Tensor:
        return self.table[packed.value_index]


def values(table: Tensor, level: Any) -> list[tuple[float, ...]]:
    network: Any = Table(table)
    networks = Networks(policy=network, reference=network, value=network, value_level=level)
    return networks.values(collate_sequences([episode_sequence(DIALOGUE)]))


def sample(table: Tensor, gae_lambda: float) -> TrainingSample:
    objective = TokenValuePPO(gae_lambda=gae_lambda, normalisation="none")
    logprobs = [[-1.0, -1.5], [-0.5, -2.0, -1.0]]
    (scored,) = objective.score([DIALOGUE], [logprobs], [logprobs], [values(table, "token")])
    return to_training_sample(scored, logprobs, action_level=objective.action_level)


def test_values_are_read_before_the_tokens_that_were_sampled() -> None:
    table = torch.arange(12.0)
    assert values(table, "turn") == [(2.0,), (8.0,)]
    assert values(table, "token") == [(2.0, 3.0), (8.0, 9.0, 10.0)]
    assert values(table, "token") == [tuple(table[list(p)].tolist()) for p in (READ[:2], READ[2:])]


def test_without_a_value_network_there_are_no_values() -> None:
    network: Any = None
    networks = Networks(policy=network, reference=network, value=None, value_level=None)
    assert networks.values(collate_sequences([episode_sequence(DIALOGUE)])) == [(), ()]


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_values_at_feedback_change_nothing(gae_lambda: float) -> None:
    table = torch.linspace(-1.0, 1.0, 12)
    before = sample(table, gae_lambda)
    for place in range(12):
        other = table.clone()
        other[place] += 5.0
        assert (sample(other, gae_lambda) == before) == (place not in READ)


def test_gae_steps_over_the_feedback_by_hand() -> None:
    """lambda 0: after a turn's last token comes the value of the next turn's first one."""
    table = torch.zeros(12)
    table[3], table[8], table[4:8] = 0.25, 0.75, 100.0
    advantages = [span.advantage for span in sample(table, 0.0).spans]
    assert advantages == pytest.approx([0.25, 0.5, -0.75, 0.0, -1.0])


def test_scoring_ends_at_the_pack_before_which_it_is_told_to(tmp_path: Path) -> None:
    module = RLEFModule(model_folder(tmp_path, tied=True), pack_tokens=40)
    module.configure_model()
    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 2:
            raise Stopped

    passes: list[int] = []
    module.policy.register_forward_hook(lambda *arguments: passes.append(1))
    with pytest.raises(Stopped):
        module.score(episodes(9), 1.0, check=check)
    assert len(passes) == 2
