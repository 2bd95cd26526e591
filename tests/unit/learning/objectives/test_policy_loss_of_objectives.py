"""An objective's loss on a pack: its options reach the loss, and the KL is there or in the reward."""

from dataclasses import replace

import pytest
import torch

from rlef_lightning.learning.losses import kl_loss, policy_loss
from rlef_lightning.learning.objectives import GRPO, PPO
from rlef_lightning.learning.packing import collate
from rlef_lightning.types import TrainingSample, TurnSpan

ALL = torch.ones(3, dtype=torch.bool)


@pytest.fixture
def packed():
    """Two turns of 2 and 1 tokens."""
    spans = [(1, 3, 2.0), (4, 5, -1.0)]
    return collate(
        [
            TrainingSample(
                token_ids=(1, 2, 3, 4, 5),
                spans=tuple(
                    TurnSpan(start=a, stop=b, advantage=advantage, value=0.0, value_target=1.0)
                    for a, b, advantage in spans
                ),
                behaviour_logprobs=(-1.5, -0.7, -0.2),
                policy_logprobs=(-1.0, -0.5, -2.0),
                reference_logprobs=(-1.2, -0.9, -1.0),
            )
        ]
    )


def logprobs():
    return torch.tensor([-0.5, -0.6, -0.4], requires_grad=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_epsilon": 0.05},
        {"clip_epsilon_high": 0.5},
        {"dual_clip": 1.5},
        {"correction": "weight", "correction_cap": 2.0},
        {"correction": "none"},
    ],
)
def test_options_reach_the_loss(packed, options):
    found = PPO(**options).policy_loss(logprobs(), packed, ALL, 6)
    tokens = torch.tensor([2.0, 2.0, -1.0])
    expected = policy_loss(
        logprobs(), packed.policy_logprobs, packed.behaviour_logprobs, tokens, ALL, total_tokens=6, **options
    )
    plain = policy_loss(
        logprobs(), packed.policy_logprobs, packed.behaviour_logprobs, tokens, ALL, total_tokens=6
    )
    assert torch.equal(found.loss, expected.loss)
    assert bool(torch.equal(found.loss, plain.loss)) == (options == {})
    assert found.kl.item() == 0.0


def test_the_kl_is_added_once_for_the_tokens_that_count(packed):
    mask = torch.tensor([True, False, True])
    objective = GRPO(kl="loss", kl_estimator="k3", beta=0.3)
    plain = GRPO(beta=0.3).policy_loss(logprobs(), packed, mask, 6)
    found = objective.policy_loss(logprobs(), packed, mask, 6)
    divergence = kl_loss(logprobs(), packed.reference_logprobs, mask, total_tokens=6)
    assert divergence.item() > 0
    assert found.kl.item() == pytest.approx(divergence.item())
    assert found.loss.item() == pytest.approx((plain.loss + 0.3 * divergence).item())


def test_a_pack_without_reference_has_no_kl_loss(packed):
    bare = replace(packed, reference_logprobs=torch.zeros(0))
    with pytest.raises(ValueError, match=r"'reference_logprobs': \(0,\)"):
        GRPO(kl="loss", kl_estimator="k3").policy_loss(logprobs(), bare, ALL, 6)


def test_value_clip_reaches_the_value_loss(packed):
    # V = 0.5, V_old = 0, target 1: clipped at 0.2 or at 0.4, the larger error counts.
    values, turns = torch.tensor([0.5, 0.5]), torch.ones(2, dtype=torch.bool)
    assert PPO().value_loss(values, packed, turns, 2).loss.item() == pytest.approx(0.5 * 0.64)
    assert PPO(value_clip=0.4).value_loss(values, packed, turns, 2).loss.item() == pytest.approx(0.5 * 0.36)
