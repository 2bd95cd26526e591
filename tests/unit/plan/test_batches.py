"""From problems to optimizer steps and packs, by hand and as training does it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlef_lightning.learning.minibatches import make_minibatches
from rlef_lightning.plan.batches import Lengths, batches
from rlef_lightning.types import TrainingSample, TurnSpan
from tests.planned import ASKED, LENGTHS


def test_from_problems_to_steps() -> None:
    plan = batches(ASKED, LENGTHS)
    assert (plan.episodes, plan.most_responses, plan.steps) == (1024, 3072, 12_000)
    assert (plan.sequences_per_step, plan.sequences_per_rank) == (256, 32)
    # 1000 + 2 x 500 + 100 = 2100 tokens, of which 3 fit whole into 8192; 32 / 3 = 10.7
    assert LENGTHS.sequence == 2100
    assert plan.packs_per_rank == 11
    # 1024 / 3 = 341.3 packs, every eighth of which is a rank's: 42.75
    assert plan.packs_for_scoring == 43


@pytest.mark.parametrize(
    ("ranks", "tokens", "packs", "for_scoring"),
    [
        (64, 4912, 4, 16),  # 4 for each rank, and no two fit into 8192
        (64, 4096, 2, 8),  # exactly two do
        (64, 4096.2, 4, 16),  # of a mean, the next whole number
        (48, 4096, 3, 11),  # 256 / 48: some ranks have 6, some 5; 512 / 48 = 10.7
        (512, 2100, 1, 1),  # half of them have nothing, and keep step
        (8, 9000, 32, 128),  # fit refuses them; a pack each
    ],
)
def test_episodes_are_not_divided(ranks: int, tokens: float, packs: int, for_scoring: int) -> None:
    alike = Lengths(prompt=tokens, response=0.0, feedback=0.0, turns=1.0)
    plan = batches(replace(ASKED, devices=ranks), alike)
    assert (plan.packs_per_rank, plan.packs_for_scoring) == (packs, for_scoring)


def test_packs_are_those_of_training() -> None:
    asked = replace(ASKED, devices=3, problems_per_epoch=31, minibatches=4, pack_tokens=20)
    one = TrainingSample(
        token_ids=(1,) * 11, spans=(TurnSpan(start=10, stop=11, advantage=0.0, value=0.0, value_target=0.0),),
        behaviour_logprobs=(0.0,), policy_logprobs=(0.0,), reference_logprobs=(),
    )  # fmt: skip
    steps = [make_minibatches([one] * 31, 4, 20, seed=0, rank=rank, ranks=3) for rank in range(3)]
    most = max(len(step.packs) for rank in steps for step in rank)
    plan = batches(asked, Lengths(prompt=11.0, response=0.0, feedback=0.0, turns=1.0))
    assert plan.packs_per_rank == most == 3  # of 8 in a step 3, 3 and 2, a pack each
