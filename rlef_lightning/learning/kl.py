"""Two log-probabilities of the same tokens -> how far apart their policies are.

`mean_log_ratio` is the part of the reward, without a gradient of its own: in RLEF the KL to the initial
policy is part of the reward (sec. 2.2). k1, k2 and k3 are estimators for a token that the first policy
sampled: objectives can have any of them in the reward, k2 or k3 in the loss; the logs have k3.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Estimator: TypeAlias = Literal["k1", "k2", "k3"]
"""Of KL(sampled || other) at one sampled token; Schulman, "Approximating KL Divergence" (2020)."""


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


def token_kl(
    policy_logprobs: Sequence[float], reference_logprobs: Sequence[float], estimator: Estimator
) -> list[float]:
    """The estimator's term of each token of one response, in nats; raises ValueError on unequal lengths."""
    policy = torch.tensor(policy_logprobs, dtype=torch.float64)
    reference = torch.tensor(reference_logprobs, dtype=torch.float64)
    terms: list[float] = kl_terms(policy, reference, estimator).tolist()
    return terms


def mean_kl(
    policy_logprobs: Sequence[float], reference_logprobs: Sequence[float], estimator: Estimator
) -> float:
    """Mean of the estimator's terms over one response's tokens; with k1 it is `mean_log_ratio`."""
    if estimator == "k1" or not policy_logprobs:
        return mean_log_ratio(policy_logprobs, reference_logprobs)
    return fsum(token_kl(policy_logprobs, reference_logprobs, estimator)) / len(policy_logprobs)


def kl_terms(sampled_logprobs: Tensor, other_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """`k1`, `k2` or `k3` by name: [R], [R] -> [R]. Raises ValueError when the shapes differ."""
    return {"k1": k1, "k2": k2, "k3": k3}[estimator](sampled_logprobs, other_logprobs)


def k1(sampled_logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """log sampled - log other: unbiased, negative for single tokens, and 0 on average as a gradient.

    Shapes: [R], [R] -> [R]. Raises ValueError when the shapes differ.
    """
    _check(sampled_logprobs, other_logprobs)
    return sampled_logprobs - other_logprobs


def k2(sampled_logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Half the square of the log-ratio: biased, but its gradient is that of the KL on average.

    Shapes: [R], [R] -> [R]. Raises ValueError when the shapes differ.
    """
    _check(sampled_logprobs, other_logprobs)
    return 0.5 * (sampled_logprobs - other_logprobs).square()


def k3(sampled_logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Per token, an estimate of KL(sampled || other) in nats that is never negative.

    With d = log other - log sampled: exp(d) - 1 - d. Its mean over tokens drawn from the first
    policy is unbiased.

    Shapes: [R], [R] -> [R]. Source: Schulman, "Approximating KL Divergence" (2020), estimator k3.
    Raises ValueError when the shapes differ.
    """
    _check(sampled_logprobs, other_logprobs)
    difference = other_logprobs - sampled_logprobs
    return torch.expm1(difference) - difference


def _check(sampled_logprobs: Tensor, other_logprobs: Tensor) -> None:
    if sampled_logprobs.shape != other_logprobs.shape:
        raise ValueError(
            f"sampled_logprobs is {tuple(sampled_logprobs.shape)} and other_logprobs "
            f"{tuple(other_logprobs.shape)}; they must have one shape"
        )
