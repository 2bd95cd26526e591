"""The same numbers as torch's AdamW, to the bit, and the same state in checkpoints."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from rlef_lightning.models.host_adamw import HostAdamW

BETAS = (0.9, 0.95)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def optimizer_of(kind: type[torch.optim.AdamW], model: Any) -> torch.optim.AdamW:
    groups = [
        {"params": list(model[0].parameters()), "lr": 0.01, "name": "policy"},
        {"params": list(model[2].parameters()), "lr": 0.1, "name": "value"},
    ]
    return kind(groups, betas=BETAS, weight_decay=0.3)


def train(model: nn.Module, optimizer: torch.optim.AdamW, first: int, last: int) -> None:
    """Steps with a learning rate that grows; in step 2 some weights have no gradient."""
    for step in range(first, last):
        draw = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(4, 7, generator=draw)).square().mean().backward()
        if step == 2:
            model[0].bias.grad = None  # type: ignore[index,union-attr]
        for group in optimizer.param_groups:
            group["lr"] *= 1.1
        optimizer.step()


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_every_step_is_adamws() -> None:
    ours, theirs = network(), network()
    train(ours, optimizer_of(HostAdamW, ours), 0, 6)
    train(theirs, optimizer_of(torch.optim.AdamW, theirs), 0, 6)
    assert equal(ours, theirs)
    assert not equal(ours, network())


@pytest.mark.parametrize(
    "kinds", [(HostAdamW, HostAdamW), (HostAdamW, torch.optim.AdamW), (torch.optim.AdamW, HostAdamW)]
)
def test_either_goes_on_from_the_others_state(kinds: tuple[type[torch.optim.AdamW], ...]) -> None:
    whole, parts = network(), network()
    train(whole, optimizer_of(torch.optim.AdamW, whole), 0, 6)
    first, second = (optimizer_of(kind, parts) for kind in kinds)
    train(parts, first, 0, 3)
    stored = copy.deepcopy(first.state_dict())
    second.load_state_dict(stored)
    if kinds[1] is HostAdamW:
        for state in stored["state"].values():
            state["exp_avg"].fill_(7.0)  # what was read is a copy
    train(parts, second, 3, 6)
    assert equal(whole, parts)


def test_a_closure_gives_the_loss() -> None:
    model = network()
    optimizer = optimizer_of(HostAdamW, model)

    def closure() -> float:
        loss = model(torch.ones(1, 7)).square().mean()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) > 0
    assert optimizer.state
