"""Checkpoints that are written while training goes on: what was there at the call, whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import torch
import torch.distributed as dist

from rlef_lightning import sharded, writing
from rlef_lightning.errors import CheckpointError, ConfigError
from rlef_lightning.placing import replace
from rlef_lightning.sharded import ShardedStrategy
from rlef_lightning.shards import SHARDS_LIST
from tests.sharded_runs import module_of, save, strategy_of, write_model
from tests.two_ranks import on_two_ranks


def take_step(strategy: ShardedStrategy) -> None:
    """Weights and Adam's averages change."""
    for optimizer in strategy.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.1
            for weight in group["params"]:
                weight.grad = torch.ones_like(weight)
        optimizer.step()


def numbers(strategy: ShardedStrategy) -> list[torch.Tensor]:
    """This rank's shards of everything that is trained or averaged."""
    (optimizer,) = strategy.optimizers
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    averages = [optimizer.state[weight]["exp_avg"] for weight in weights]
    return [tensor.to_local().detach().clone() for tensor in (*weights, *averages)]  # type: ignore[attr-defined]


def swap_replace(own: Callable[[Path, Path], None]) -> None:
    writing.replace = own  # a process of its own: nothing to put back


def written_aside(rank: int, folder: Path) -> None:
    strategy = strategy_of(module_of(folder / "small"), async_checkpoints=True)
    path, may_be_placed = folder / "last.ckpt", Event()

    def place(part: Path, target: Path) -> None:
        may_be_placed.wait()
        replace(part, target)

    swap_replace(place)
    take_step(strategy)
    before = numbers(strategy)
    save(strategy, path)
    assert not path.exists()  # and yet the call is over
    take_step(strategy)
    may_be_placed.set()
    strategy.finish()
    resumed = strategy_of(module_of(folder / "small"))
    take_step(resumed)  # else there were no averages to read into
    assert resumed.load_checkpoint(path)["epoch"] == 1
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(numbers(resumed), before, strict=True))
    assert not torch.equal(numbers(strategy)[0], before[0])
    cannot_be_written(strategy, path)
    killed_before_it_is_in_place(strategy, path)


def cannot_be_written(strategy: ShardedStrategy, path: Path) -> None:
    swap_replace(full)
    save(strategy, path, epoch=2)
    with pytest.raises(CheckpointError, match=r"cannot write .*last\.ckpt.*No space left.*is kept"):
        strategy.finish()  # on both, though rank 0 alone puts it in its place


def killed_before_it_is_in_place(strategy: ShardedStrategy, path: Path) -> None:
    swap_replace(lambda part, target: os._exit(0))
    save(strategy, path, epoch=3)
    with pytest.raises((CheckpointError, RuntimeError)):  # on rank 1: the other one is gone
        strategy.finish()
    os._exit(0)


def full(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def no_memory(*arguments: object) -> None:
    raise MemoryError("the host has no room")


def only_rank_0_cannot(rank: int, folder: Path) -> None:
    """Its own files, and the renames: both ranks end with its reason, and the old checkpoint stays."""
    module, path = module_of(folder / "small"), folder / "last.ckpt"
    for options in ({}, {"async_checkpoints": True}, {"save_distributed_checkpoint": False}):
        strategy = strategy_of(module, **options)
        save(strategy, path, epoch=7)
        strategy.finish()
        cases = [(torch, "save", full), (torch, "save", no_memory)]
        for place, name, fails in cases if options else [*cases, (sharded, "replace", full)]:
            reason = "No space left" if fails is full else "the host has no room"
            with pytest.MonkeyPatch.context() as patch:
                if rank == 0:
                    patch.setattr(place, name, fails)
                with pytest.raises(CheckpointError, match=rf"cannot write .*last\.ckpt.*{reason}"):
                    save(strategy, path, epoch=8)
        assert strategy_of(module).load_checkpoint(path)["epoch"] == 7
        dist.barrier()  # the next round writes there


@pytest.mark.slow
def test_both_ranks_end_when_rank_0_alone_cannot_write(tmp_path: Path) -> None:
    write_model(tmp_path / "small")
    on_two_ranks(only_rank_0_cannot, tmp_path)


@pytest.mark.slow
def test_what_is_written_aside_is_whole_or_not_there(tmp_path: Path) -> None:
    write_model(tmp_path / "small")
    on_two_ranks(written_aside, tmp_path)
    last, part = tmp_path / "last.ckpt", tmp_path / ".last.ckpt.part"
    assert torch.load(last / "meta.pt", weights_only=False)["epoch"] == 1
    assert torch.load(part / "meta.pt", weights_only=False)["epoch"] == 3
    assert (part / SHARDS_LIST).exists()  # written by both, not yet in its place


def test_one_file_is_not_written_aside() -> None:
    with pytest.raises(ConfigError, match="needs save_distributed_checkpoint=true"):
        ShardedStrategy(save_distributed_checkpoint=False, async_checkpoints=True)
