"""Rewards and values of one episode's response tokens -> advantages (arXiv 1506.02438).

Prompts and feedback have no place here: the tokens are those that the policy chose, one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, gae_lambda: float, gamma: float = 1.0) -> Tensor:
    """A_i = delta_i + gamma * lambda * A_(i+1), with delta_i = r_i + gamma * V_(i+1) - V_i; 0 after the last.

    Shapes: [R], [R] -> [R]. Entry i is response token i of the whole episode, over all turns: r_i is paid for
    it, V_i was read before it. The lambda-return, which V is fitted to, is A_i + V_i.

    Source: arXiv 1506.02438, eq. 16. Raises ValueError when the shapes differ or are not one-dimensional.
    """
    if rewards.shape != values.shape or rewards.ndim != 1:
        raise ValueError(
            f"rewards is {tuple(rewards.shape)} and values {tuple(values.shape)}; they must be [R], one "
            "entry for each response token"
        )
    advantages: list[float] = []
    advantage = next_value = 0.0
    # Plain floats: a tensor operation for each of thousands of tokens would take a hundred times as long.
    for reward, value in zip(reversed(rewards.tolist()), reversed(values.tolist()), strict=True):
        advantage = reward + gamma * next_value - value + gamma * gae_lambda * advantage
        next_value = value
        advantages.append(advantage)
    return torch.tensor(advantages[::-1], dtype=rewards.dtype, device=rewards.device)
