"""Tensors of a step -> numbers that tell whether learning is healthy. No gradients, no losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlef_lightning.learning.kl import k3


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """How far the engine's log-probabilities are from the trainer's for the same weights, in nats."""

    mean_abs: float
    max_abs: float
    approx_kl: float
    """k3 estimate of KL(behaviour || policy), per token."""


def engine_mismatch(behaviour_logprobs: Tensor, policy_logprobs: Tensor) -> Mismatch:
    """Compare what the engine said at sampling with what the trainer says of the same tokens.

    Shapes: [R], [R]; all zero when R is 0. Raises ValueError when the shapes differ.
    """
    divergence = k3(behaviour_logprobs.detach().double(), policy_logprobs.detach().double())
    if divergence.numel() == 0:
        return Mismatch(mean_abs=0.0, max_abs=0.0, approx_kl=0.0)
    distance = (behaviour_logprobs.detach().double() - policy_logprobs.detach().double()).abs()
    return Mismatch(
        mean_abs=distance.mean().item(), max_abs=distance.max().item(), approx_kl=divergence.mean().item()
    )


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant.

    Shapes: [M], [M]. 0 when the returns have no spread, for then there is nothing to explain.
    Raises ValueError when the shapes differ.
    """
    if values.shape != returns.shape:
        raise ValueError(f"values is {tuple(values.shape)} and returns {tuple(returns.shape)}")
    target = returns.detach().double()
    spread = target.var(correction=0).item() if target.numel() else 0.0
    if spread == 0.0:
        return 0.0
    residual = target - values.detach().double()
    return 1.0 - torch.var(residual, correction=0).item() / spread
