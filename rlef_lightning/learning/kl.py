"""Two log-probabilities of the same tokens -> how far apart their policies are.

`mean_log_ratio` is the part of the reward, `k3` a number for the logs. Neither carries a gradient
into the loss: in RLEF the KL to the initial policy is part of the reward (sec. 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import torch
from torch import Tensor


def mean_log_ratio(policy_logprobs: Sequence[float], reference_logprobs: Sequence[float]) -> float:
    """Mean over one response's tokens of log(policy / reference), in nats per token.

    A response's probability is the geometric mean of its tokens' probabilities, so that its length
    does not enter; an empty response gives 0.

    Source: RLEF, sec. 2.2. Raises ValueError when the two lengths differ.
    """
    if len(policy_logprobs) != len(reference_logprobs):
        raise ValueError(
            f"policy_logprobs has {len(policy_logprobs)} tokens and reference_logprobs "
            f"{len(reference_logprobs)}; both must cover the same response"
        )
    if not policy_logprobs:
        return 0.0
    ratios = (p - r for p, r in zip(policy_logprobs, reference_logprobs, strict=True))
    return fsum(ratios) / len(policy_logprobs)


def k3(sampled_logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Per token, an estimate of KL(sampled || other) in nats that is never negative.

    With d = log other - log sampled: exp(d) - 1 - d. Its mean over tokens drawn from the first
    policy is unbiased.

    Shapes: [R], [R] -> [R]. Source: Schulman, "Approximating KL Divergence" (2020), estimator k3.
    Raises ValueError when the shapes differ.
    """
    if sampled_logprobs.shape != other_logprobs.shape:
        raise ValueError(
            f"sampled_logprobs is {tuple(sampled_logprobs.shape)} and other_logprobs "
            f"{tuple(other_logprobs.shape)}; they must have one shape"
        )
    difference = other_logprobs - sampled_logprobs
    return torch.expm1(difference) - difference
