"""Log-probabilities, advantages, values -> the two losses of RLEF, sec. 2.2.

Denominators are counts over the whole mini-batch on all ranks, passed in: the sum of the losses (and
of the gradients) over any split into micro-batches is that of the mini-batch. Runs no model and
averages nothing over ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rlef_lightning.learning.kl import Estimator, k3, kl_terms

Correction: TypeAlias = Literal["ratio", "weight", "none"]
"""Where the correction for the sampler enters; see `policy_loss`."""

MAX_LOG_RATIO = 20.0
"""Log-ratios beyond it count as it: exp would overflow, and inf * 0 in the backward pass gives NaN."""
TRUNCATION_MARGIN = 1e-3
"""With a cap of 1, rounding alone would make half of all corrections count as truncated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """A micro-batch's share of the policy loss, and numbers for the logs.

    Over micro-batches and ranks, sum everything but `ratio_max`, of which take the maximum.
    """

    loss: Tensor
    """[] with gradient."""
    clip_fraction: Tensor
    """[] share of tokens at which the clipped term was the smaller one: no gradient there."""
    ratio_mean: Tensor
    """[] of the corrected ratio that enters the loss."""
    ratio_max: Tensor
    """[] likewise; 0 without tokens."""
    correction_mean: Tensor
    """[] of the correction for the sampler: 1 when trainer and engine agree."""
    truncated_fraction: Tensor
    """[] share of tokens whose correction was over the cap, by more than rounding (1e-3)."""
    approx_kl: Tensor
    """[] k3 estimate of KL(old || new), nats per token."""
    kl: Tensor
    """[] mean of the KL terms in the loss, before beta; 0 where the KL is in the reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueLoss:
    """A micro-batch's share of the value loss, and numbers for the logs; sum over micro-batches."""

    loss: Tensor
    """[] with gradient."""
    clip_fraction: Tensor
    """[] share of turns at which the clipped term was the larger one: no gradient there."""
    absolute_error: Tensor
    """[] mean of |V - R|."""


def policy_loss(
    policy_logprobs: Tensor,
    old_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    total_tokens: float,
    clip_epsilon: float = 0.2,
    clip_epsilon_high: float | None = None,
    dual_clip: float | None = None,
    correction: Correction = "ratio",
    correction_cap: float = 1.0,
) -> PolicyLoss:
    """-sum(min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)) / total_tokens.

    ratio = [policy / old] * stopgrad(min(policy / behaviour, 1)): the correction for a stale or
    slightly different sampler is part of the ratio, so the clip acts on the product of both. That is
    "ratio"; with "weight" the ratio is policy / old alone, and min(old / behaviour, cap) multiplies the
    clipped term (truncated importance sampling: Ionides 2008; for engine and trainer Yao et al., "Your
    efficient RL framework secretly brings you off-policy RL training", 2025); with "none" there is none.

    `clip_epsilon_high` is the upper eps where it differs (clip-higher, arXiv 2503.14476, eq. 10).
    `dual_clip` c: where A < 0 the term is at least c * A (arXiv 1912.09729, eq. 5).

    Shapes: all [R]; mask True (or 1): the token counts. `total_tokens` counts the tokens that count in
    all micro-batches of all ranks. Logs are natural. Source: RLEF, sec. 2.2.
    Raises ValueError when shapes differ or `total_tokens` is not positive.
    """
    named = {
        "policy_logprobs": policy_logprobs,
        "old_logprobs": old_logprobs,
        "behaviour_logprobs": behaviour_logprobs,
        "advantages": advantages,
        "mask": mask,
    }
    _check(named, "total_tokens", total_tokens)
    new, old, behaviour, advantage = _masked(list(named.values())[:-1], mask)
    ratio, weight, uncapped = _corrected(new, old, behaviour, correction, correction_cap)
    free = ratio * advantage
    upper = clip_epsilon if clip_epsilon_high is None else clip_epsilon_high
    clipped = ratio.clamp(1.0 - clip_epsilon, 1.0 + upper) * advantage
    terms, stopped = torch.minimum(free, clipped), clipped < free
    if dual_clip is not None:
        bound = dual_clip * advantage
        below = (advantage < 0) & (terms < bound)
        terms, stopped = torch.where(below, bound, terms), stopped | below
    shares = mask.to(ratio.dtype) / total_tokens
    return PolicyLoss(
        loss=-(shares * (terms if correction == "ratio" else weight * terms)).sum(),
        clip_fraction=(shares * stopped).sum(),
        ratio_mean=(shares * ratio.detach()).sum(),
        ratio_max=_largest(ratio.detach() * mask.bool()),
        correction_mean=(shares * weight).sum(),
        truncated_fraction=(shares * (uncapped > correction_cap + TRUNCATION_MARGIN)).sum(),
        approx_kl=(shares * k3(old, new.detach())).sum(),
        kl=ratio.new_zeros(()),
    )


def _corrected(
    new: Tensor, old: Tensor, behaviour: Tensor, correction: Correction, cap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The ratio that is clipped, the correction, and the correction before its cap."""
    if correction == "none":
        ones = torch.ones_like(old)
        return _ratio(new, old), ones, ones.clamp(max=cap)
    uncapped = _ratio(new.detach() if correction == "ratio" else old, behaviour)
    weight = uncapped.clamp(max=cap)
    ratio = _ratio(new, old)
    return ratio * weight if correction == "ratio" else ratio, weight, uncapped


def kl_loss(
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    mask: Tensor,
    *,
    total_tokens: float,
    estimator: Estimator = "k3",
) -> Tensor:
    """sum of the tokens' KL terms / total_tokens, [] with gradient: the KL to the initial policy as a loss.

    Shapes: all [R]; mask True (or 1): the token counts. Source: arXiv 2402.03300, eq. 4 (k3).
    Raises ValueError when shapes differ or `total_tokens` is not positive.
    """
    named = {"policy_logprobs": policy_logprobs, "reference_logprobs": reference_logprobs, "mask": mask}
    _check(named, "total_tokens", total_tokens)
    new, reference = _masked([policy_logprobs, reference_logprobs], mask)
    # Bounded like the ratio: e^-d of a token that the policy has all but given up would overflow.
    difference = (new - reference).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    terms = kl_terms(difference, torch.zeros_like(difference), estimator)
    return (mask.to(terms.dtype) / total_tokens * terms).sum()


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    total_turns: float,
    clip: float = 0.2,
) -> ValueLoss:
    """sum(1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)) / total_turns.

    Shapes: all [M], one entry per turn; mask True (or 1): the turn counts. `total_turns` counts the
    turns that count in all micro-batches of all ranks. Source: RLEF, sec. 2.2.
    Raises ValueError when shapes differ or `total_turns` is not positive.
    """
    named = {"values": values, "old_values": old_values, "returns": returns, "mask": mask}
    _check(named, "total_turns", total_turns)
    value, old, target = _masked([values, old_values, returns], mask)
    near_old = torch.clamp(value, old - clip, old + clip)
    free, clipped = (value - target).square(), (near_old - target).square()
    weights = mask.to(value.dtype) / total_turns
    return ValueLoss(
        loss=(weights * 0.5 * torch.maximum(free, clipped)).sum(),
        clip_fraction=(weights * (clipped > free)).sum(),
        absolute_error=(weights * (value.detach() - target).abs()).sum(),
    )


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.exp((numerator - denominator).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def _masked(tensors: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Zeros where the mask is False, put in before any arithmetic: not even a NaN gets through."""
    return [tensor.masked_fill(~mask.bool(), 0.0) for tensor in tensors]


def _largest(tensor: Tensor) -> Tensor:
    return tensor.max() if tensor.numel() else tensor.new_zeros(())


def _check(named: dict[str, Tensor], total_name: str, total: float) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"all tensors must be one-dimensional and of one length; found {shapes}")
    if not total > 0:
        raise ValueError(f"{total_name} is {total}; it must be the count over the whole mini-batch, above 0")
