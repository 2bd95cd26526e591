"""Log-probabilities, advantages, values -> the two losses of RLEF, sec. 2.2.

Denominators are counts over the whole mini-batch on all ranks, passed in: the sum of the losses (and
of the gradients) over any split into micro-batches is that of the mini-batch. Runs no model and
averages nothing over ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlef_lightning.learning.kl import k3

MAX_LOG_RATIO = 20.0
"""Log-ratios beyond it count as it: exp would overflow, and inf * 0 in the backward pass gives NaN."""


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
    """[] of min(policy / behaviour, 1): 1 when trainer and engine agree."""
    approx_kl: Tensor
    """[] k3 estimate of KL(old || new), nats per token."""


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
) -> PolicyLoss:
    """-sum(min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)) / total_tokens.

    ratio = [policy / old] * stopgrad(min(policy / behaviour, 1)): the correction for a stale or
    slightly different sampler is part of the ratio, so the clip acts on the product of both.

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
    correction = _ratio(new.detach(), behaviour).clamp(max=1.0)
    ratio = _ratio(new, old) * correction
    free = ratio * advantage
    clipped = ratio.clamp(1.0 - clip_epsilon, 1.0 + clip_epsilon) * advantage
    weights = mask.to(ratio.dtype) / total_tokens
    return PolicyLoss(
        loss=-(weights * torch.minimum(free, clipped)).sum(),
        clip_fraction=(weights * (clipped < free)).sum(),
        ratio_mean=(weights * ratio.detach()).sum(),
        ratio_max=_largest(ratio.detach() * mask.bool()),
        correction_mean=(weights * correction).sum(),
        approx_kl=(weights * k3(old, new.detach())).sum(),
    )


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
