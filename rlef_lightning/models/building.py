"""Model folder -> policy, reference or value network, on one process or sharded over many.

On the meta device first, then sharded, then given memory and its own rows of the weights: the most that a
process holds is its shards and one tensor's rows. One path for any number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from rlef_lightning.errors import ConfigError
from rlef_lightning.models.agreeing import together
from rlef_lightning.models.lora import Lora, add_adapters, reset_adapters
from rlef_lightning.models.networks import PolicyNetwork, PolicyValueNetwork, ValueNetwork
from rlef_lightning.models.reading import read_weights
from rlef_lightning.models.sharding import decoder_layers, recompute_layers, shard
from rlef_lightning.models.skeleton import give_memory, skeleton

DType = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a network lives and how it computes.

    Example: Place(device="cuda", mesh=mesh, compute=torch.bfloat16, recompute=True)
    """

    device: torch.device | str = "cpu"
    mesh: DeviceMesh | None = None
    """The ranks that share the weights, one dimension; None: this process has them all."""
    compute: torch.dtype | None = None
    """Number format of forward and backward passes over sharded weights; None: that of the weights."""
    recompute: bool = False
    """True: activations within a layer are computed again in the backward pass, not kept."""
    offload: bool = False
    """True: sharded weights, gradients and optimizer state stay in the host's memory between passes."""


def place_of(
    mesh: DeviceMesh | None, compute_dtype: DType | None, *, recompute: bool, offload: bool
) -> Place:
    """By the options of RLEFModule; raises ConfigError: options of sharded networks without sharding."""
    if mesh is None and (compute_dtype is not None or offload):
        raise ConfigError(
            "model.compute_dtype and model.offload_reference are of sharded networks; set "
            "trainer.strategy to rlef_lightning.sharded.ShardedStrategy, also for one GPU"
        )
    return Place(
        # Lightning makes the process's own device the default while it configures models.
        device=torch.get_default_device() if mesh is None else mesh.device_type,
        mesh=mesh,
        compute=None if compute_dtype is None else getattr(torch, compute_dtype),
        recompute=recompute,
        offload=offload,
    )


def build_policy(
    path: str | Path,
    place: Place,
    dtype: torch.dtype = torch.float32,
    setting: str = "model.model_folder",
    *,
    value_head: bool = False,
    lora: Lora | None = None,
    seed: int = 0,
) -> PolicyNetwork:
    """A causal language model with the folder's weights; raises CheckpointError, ConfigError.

    With `value_head` on its hidden states, and with adapters in the place of training its weights; both are
    drawn from `seed`.
    """
    model = skeleton(AutoModelForCausalLM, path, dtype, setting)
    if lora is not None:
        add_adapters(model, decoder_layers(model), lora)
    network = PolicyValueNetwork(model, seed) if value_head else PolicyNetwork(model)
    _settle(network, model, path, place, setting)
    reset_adapters(model, seed)
    if isinstance(network, PolicyValueNetwork):
        network.reset_head(seed)
    return network


def build_reference(
    path: str | Path, place: Place, dtype: torch.dtype, setting: str = "model.model_folder"
) -> PolicyNetwork:
    """The same, frozen: in evaluation mode, without gradients."""
    network = build_policy(path, place, dtype, setting)
    network.requires_grad_(False).eval()
    return network


def build_value(
    path: str | Path,
    place: Place,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    setting: str = "model.model_folder",
) -> ValueNetwork:
    """A value network whose backbone has the folder's weights, and whose head is drawn from `seed`."""
    backbone = skeleton(AutoModel, path, dtype, setting)
    network = ValueNetwork(backbone, seed)
    _settle(network, backbone, path, place, setting)
    network.reset_head(seed)
    return network


def _settle(network: nn.Module, model: PreTrainedModel, path: str | Path, place: Place, setting: str) -> None:
    if place.recompute:
        recompute_layers(model)
    if place.mesh is not None:
        shard(network, model, place.mesh, compute=place.compute, offload=place.offload)
    give_memory(network, model, "cpu" if place.offload and place.mesh is not None else place.device)
    work = partial(read_weights, model, path, model.base_model_prefix, setting)
    # With their own error alone the others would wait in the first pass for the rank that could not read.
    work() if place.mesh is None else together(work, place.mesh.get_group())
