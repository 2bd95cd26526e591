"""Sharded networks and their strategy on two ranks, as a Trainer has them, without a Trainer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, LlamaConfig

from rlef_lightning.module import RLEFModule
from rlef_lightning.sharded import ShardedStrategy


def module_of(folder: Path, **options: Any) -> RLEFModule:
    """With its networks, sharded over all ranks."""
    module = RLEFModule(str(folder), **options)
    module._device_mesh = init_device_mesh(
        "cpu", (dist.get_world_size(), 1), mesh_dim_names=("data_parallel", "tp")
    )
    module.configure_model()
    return module


def strategy_of(module: RLEFModule, **options: Any) -> ShardedStrategy:
    """As a Trainer's, in a fit."""
    strategy = ShardedStrategy(**options)
    strategy._lightning_module = strategy._model = module
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), strategy=strategy)  # type: ignore[assignment]
    optimizer: Any = module.configure_optimizers()
    strategy.optimizers = [optimizer["optimizer"]]
    strategy.cluster_environment = SimpleNamespace(global_rank=dist.get_rank)  # type: ignore[assignment]
    return strategy


def save(strategy: ShardedStrategy, path: Path, epoch: int = 1) -> None:
    """As a Trainer does."""
    state = strategy.lightning_module_state_dict()
    optimizers = [strategy.optimizer_state(one) for one in strategy.optimizers]
    strategy.save_checkpoint({"state_dict": state, "optimizer_states": optimizers, "epoch": epoch}, path)


def write_model(folder: Path, hidden_size: int = 32) -> None:
    """A random Llama of one layer."""
    config = LlamaConfig(
        vocab_size=61, hidden_size=hidden_size, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
