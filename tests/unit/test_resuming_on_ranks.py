"""From two ranks to two and to one: the same weights and averages to the bit, and the same next step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from rlef_lightning.learning.minibatches import make_minibatches
from rlef_lightning.models.lora import whole
from rlef_lightning.module import RLEFModule
from rlef_lightning.ranks import Ranks
from rlef_lightning.sharded import ShardedStrategy
from tests.sharded_runs import module_of, save, strategy_of
from tests.small_runs import episodes, model_folder, take_step
from tests.two_ranks import on_ranks, on_two_ranks

pytestmark = pytest.mark.slow

PACK_TOKENS = 40


def started(folder: Path) -> tuple[RLEFModule, ShardedStrategy]:
    module = module_of(folder / "model", learning_rate=1e-3, warmup_steps=1, pack_tokens=PACK_TOKENS)
    return module, strategy_of(module)


def train(module: RLEFModule, strategy: ShardedStrategy, steps: int) -> dict[str, float]:
    """Scores the same episodes with the weights that there are, and steps; what was logged."""
    ranks, logged = Ranks(60.0), {}
    scored = module.score(episodes(11), 1.0, ranks)
    options = {"optimizer": strategy.optimizers[0], "lr_scheduler": SimpleNamespace(step=lambda: None)}
    batches = make_minibatches(scored.samples, steps, PACK_TOKENS, 0, rank=ranks.rank, ranks=ranks.size)
    for number, batch in enumerate(batches):
        take_step(module, batch, options, logged, last=number == steps - 1)
    return {name: number for name, number in logged.items() if not name.endswith("_per_s")}


def state_of(module: RLEFModule, strategy: ShardedStrategy) -> dict[str, torch.Tensor]:
    """Whole weights, and whole averages of the optimizer, by name."""
    found = {name: whole(weight).clone() for name, weight in module.named_parameters()}
    averages = {name: strategy.optimizers[0].state[weight] for name, weight in module.named_parameters()}
    for name, kept in averages.items():
        found |= {f"{name}/{kind}": whole(tensor).clone() for kind, tensor in kept.items()}
    return found


def uninterrupted(rank: int, folder: Path) -> None:
    module, strategy = started(folder)
    train(module, strategy, steps=2)
    save(strategy, folder / "last.ckpt")
    before = state_of(module, strategy)
    logged = train(module, strategy, steps=1)
    found = {"before": before, "logged": logged, "after": state_of(module, strategy)}
    if rank == 0:
        torch.save(found, folder / "uninterrupted.pt")


def resumed(rank: int, folder: Path) -> None:
    wanted: dict[str, Any] = torch.load(folder / "uninterrupted.pt")
    module, strategy = started(folder)
    strategy.load_checkpoint(folder / "last.ckpt")
    found = state_of(module, strategy)
    assert found.keys() == wanted["before"].keys()
    for name, tensor in wanted["before"].items():
        assert torch.equal(found[name], tensor), name
    logged = train(module, strategy, steps=1)
    losses = {name: number for name, number in logged.items() if "loss" in name}
    assert {"train/policy_loss", "train/value_loss"} <= losses.keys()
    assert losses == pytest.approx({name: wanted["logged"][name] for name in losses}, abs=1e-6, rel=0)
    # Two ranks add up their gradients in another order than one; Adam steps by 1e-3 x gradient / its size.
    apart = 1e-6 if dist.get_world_size() == 2 else 5e-5
    for name, weight in module.named_parameters():
        torch.testing.assert_close(whole(weight), wanted["after"][name], atol=apart, rtol=0)


def test_two_ranks_and_one_go_on_from_the_same_state(tmp_path: Path) -> None:
    model_folder(tmp_path / "model", tied=False)
    on_two_ranks(uninterrupted, tmp_path)
    on_two_ranks(resumed, tmp_path)
    on_ranks(1, resumed, tmp_path)
