"""Hidden states, output layer, target ids -> log-probabilities and entropy, in chunks.

The logits of a pack, R x V numbers, would be the largest tensor of a training step. Here only one
chunk of them exists at a time; the backward pass computes each chunk once more. Runs no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LOGITS_AT_A_TIME = {"cpu": 1 << 25, "cuda": 1 << 27}
"""Numbers of one chunk, 128 or 512 MiB in float32: a host is no faster with more, a GPU is."""


def chunk_rows(vocabulary: int, device_type: str) -> int:
    """Predictions of one chunk, whatever the vocabulary."""
    return max(1, LOGITS_AT_A_TIME.get(device_type, LOGITS_AT_A_TIME["cuda"]) // vocabulary)


def token_logprobs(
    hidden: Tensor,
    lm_head_weight: Tensor,
    target_ids: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int = 1024,
    *,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Natural-log probability of each target, and the entropy in nats of each prediction.

    Shapes: hidden [R, H], lm_head_weight [V, H], target_ids [R] -> logprobs [R], entropy [R] (or [0] without
    it), both float32 (float64 for float64 input). Products are in the inputs' type, or autocast's; the sums
    over the vocabulary in float32. The entropy carries no gradient. Memory: chunk_tokens x V, with the
    entropy twice, in the sums' type; for inputs in half precision as many numbers of theirs.

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
            hidden, lm_head_weight, target_ids, (temperature, chunk_tokens, with_entropy)
        )
    return logprobs, entropy


class _TokenLogprobs(torch.autograd.Function):
    """Keeps hidden, weight, targets and the log-normaliser [R] for the backward pass, and no logits."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target_ids: Tensor, options: tuple[float, int, bool]
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature, ctx.chunk, with_entropy = options
        normaliser = hidden.new_empty(len(hidden), dtype=_sum_dtype(hidden))
        logprobs = torch.empty_like(normaliser)
        entropy = torch.empty_like(normaliser) if with_entropy else normaliser.new_empty(0)
        buffer = _buffer(hidden, weight, ctx.chunk)
        scratch = torch.empty_like(buffer) if with_entropy else buffer
        for rows in _chunks(len(hidden), ctx.chunk):
            logits = _logits(hidden[rows], weight, ctx.temperature, buffer)
            largest = logits.amax(-1, keepdim=True)
            logits.sub_(largest)
            chosen = logits.gather(-1, target_ids[rows, None]).squeeze(-1)
            unscaled = torch.exp(logits, out=scratch[: len(logits)])
            total = unscaled.sum(-1)
            log_total = total.log()
            logprobs[rows] = chosen - log_total
            normaliser[rows] = log_total + largest.squeeze(-1)
            if with_entropy:
                entropy[rows] = log_total - unscaled.mul_(logits).sum(-1) / total
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
        buffer = _buffer(hidden, weight, ctx.chunk)
        for rows in _chunks(len(hidden), ctx.chunk):
            # d logprob / d logits = [target] - softmax
            logits = _logits(hidden[rows], weight, ctx.temperature, buffer)
            softmax = logits.sub_(normaliser[rows, None]).exp_()
            grad_logits = softmax.mul_(-upstream[rows])
            grad_logits.scatter_add_(-1, target_ids[rows, None], upstream[rows])
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad_logits, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits.T, hidden[rows])
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def _buffer(hidden: Tensor, weight: Tensor, chunk: int) -> Tensor:
    """One chunk's logits; taken once, since a host pays for every page of memory that it is given anew."""
    return hidden.new_empty(min(chunk, len(hidden)), len(weight), dtype=_sum_dtype(hidden))


def _logits(hidden: Tensor, weight: Tensor, temperature: float, buffer: Tensor) -> Tensor:
    logits = buffer[: len(hidden)]
    if hidden.dtype == logits.dtype:
        torch.mm(hidden, weight.T, out=logits)
    else:
        logits.copy_(F.linear(hidden, weight))
    return logits if temperature == 1.0 else logits.div_(temperature)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a tensor for the product where the number formats allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


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
