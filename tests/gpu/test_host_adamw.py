"""Adam's averages lie in the host's pinned memory, and the steps are AdamW's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlef_lightning.models.host_adamw import HostAdamW

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).cuda()


def test_averages_stay_in_the_host() -> None:
    ours, theirs = network(), network()
    optimizer = HostAdamW(ours.parameters(), lr=0.01)
    for model, each in ((ours, optimizer), (theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01))):
        for step in range(4):
            each.zero_grad()
            draw = torch.Generator().manual_seed(step)
            model(torch.randn(4, 7, generator=draw).cuda()).square().mean().backward()
            each.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    for state in optimizer.state.values():
        assert state["exp_avg"].is_pinned()
        assert state["exp_avg_sq"].device.type == "cpu"
    again = HostAdamW(ours.parameters(), lr=0.01)
    again.load_state_dict(optimizer.state_dict())
    assert all(state["exp_avg"].is_pinned() for state in again.state.values())
