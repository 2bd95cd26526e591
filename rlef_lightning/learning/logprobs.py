"""Hidden states, output layer, target ids -> log-probabilities and entropy, in chunks.

The logits of a pack, R x V numbers, would be the largest tensor of a training step. Here only one
chunk of them exists at a time; the backward pass computes each chunk once more. Runs no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def token_logprobs(
    hidden: Tensor,
    lm_head_weight: Tensor,
    target_ids: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Natural-log probability of each target, and the entropy in nats of each prediction.

    Shapes: hidden [R, H], lm_head_weight [V, H], target_ids [R] -> logprobs [R], entropy [R], both
    float32 (float64 for float64 input). Products are in the inputs' type, or autocast's; the sums over
    the vocabulary in float32. The entropy carries no gradient. Memory: chunk_tokens x V at a time.

    Raises ValueError on shapes or types that do not fit, or a temperature or chunk that is not positive.
    """
    _check(hidden, lm_head_weight, target_ids, temperature, chunk_tokens)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, lm_head_weight = hidden.to(dtype), lm_head_weight.to(dtype)
    if hidden.dtype != lm_head_weight.dtype:
        raise ValueError(
            f"hidden is {hidden.dtype} and lm_head_weight {lm_head_weight.dtype}; they must agree"
        )
    with torch.autocast(device, enabled=False):
        logprobs, entropy = _TokenLogprobs.apply(
            hidden, lm_head_weight, target_ids, (temperature, chunk_tokens)
        )
    return logprobs, entropy


class _TokenLogprobs(torch.autograd.Function):
    """Keeps hidden, weight, targets and the log-normaliser [R] for the backward pass, and no logits."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target_ids: Tensor, options: tuple[float, int]
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature, ctx.chunk = options
        normaliser = hidden.new_empty(len(hidden), dtype=_sum_dtype(hidden))
        logprobs, entropy = torch.empty_like(normaliser), torch.empty_like(normaliser)
        for rows in _chunks(len(hidden), ctx.chunk):
            logits = _logits(hidden[rows], weight, ctx.temperature)
            log_z, mean_logit = _normalise(logits)
            normaliser[rows] = log_z
            logprobs[rows] = logits.gather(-1, target_ids[rows, None]).squeeze(-1) - log_z
            entropy[rows] = log_z - mean_logit
        ctx.save_for_backward(hidden, weight, target_ids, normaliser)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, target_ids, normaliser = ctx.saved_tensors
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # bfloat16 would lose the small late additions of a sum over chunks.
        grad_weight = torch.zeros_like(weight, dtype=_sum_dtype(weight)) if need_weight else None
        upstream = (grads[0] / ctx.temperature)[:, None]
        for rows in _chunks(len(hidden), ctx.chunk):
            # d logprob / d logits = [target] - softmax
            logits = _logits(hidden[rows], weight, ctx.temperature)
            softmax = logits.sub_(normaliser[rows, None]).exp_()
            grad_logits = softmax.mul_(-upstream[rows])
            grad_logits.scatter_add_(-1, target_ids[rows, None], upstream[rows])
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight += grad_logits.T @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = F.linear(hidden, weight).to(_sum_dtype(hidden))
    return logits if temperature == 1.0 else logits.div_(temperature)


def _normalise(logits: Tensor) -> tuple[Tensor, Tensor]:
    """log sum exp of each row, and the mean logit under its softmax; one exponential for both."""
    largest = logits.amax(-1, keepdim=True)
    unscaled = (logits - largest).exp_()
    total = unscaled.sum(-1)
    mean_logit = unscaled.mul_(logits).sum(-1) / total
    return largest.squeeze(-1) + total.log(), mean_logit


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _check(hidden: Tensor, weight: Tensor, target_ids: Tensor, temperature: float, chunk: int) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be [R, H] and lm_head_weight [V, H]; "
            f"found {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if target_ids.shape != hidden.shape[:1]:
        raise ValueError(f"target_ids must be [{hidden.shape[0]}]; found {tuple(target_ids.shape)}")
    if temperature <= 0 or chunk <= 0:
        raise ValueError(f"temperature ({temperature}) and chunk_tokens ({chunk}) must be above 0")
