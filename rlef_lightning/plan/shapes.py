"""Model folder, number of ranks -> the real sharded networks on the meta device, and their sizes on one rank.

The process group is torch's own fake one of the run's size, so shard sizes are those that FSDP2 makes there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModel, AutoModelForCausalLM

from rlef_lightning.errors import ConfigError
from rlef_lightning.models.networks import PolicyNetwork, ValueNetwork
from rlef_lightning.models.reading import local_part
from rlef_lightning.models.sharding import decoder_layers, separate_parts, shard
from rlef_lightning.models.skeleton import skeleton

SETTING = "model.model_folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Numbers of weights of one network; rank 0 has the largest shards."""

    weights: int
    shard: int
    """On rank 0."""
    layer: int
    """Of one decoder layer, which is gathered for its own pass."""
    embeddings: int
    """Gathered by themselves; 0 where they are the output layer, too."""
    root: int
    """Of what stays gathered during a pass: the output layer, the last norm."""


NOTHING = Network(weights=0, shard=0, layer=0, embeddings=0, root=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Of policy (and reference, which is the same) and value network, and of the transformer."""

    policy: Network
    value: Network
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    context: int


def shapes(model_folder: str, ranks: int, *, value: bool = True) -> Shapes:
    """Builds and shards; takes no memory for weights. Raises CheckpointError, ConfigError.

    Args:
        model_folder: Of which config.json is read.
        ranks: Processes that share the weights.
        value: False: there is no value network; its sizes are 0.
    """
    model = skeleton(AutoModelForCausalLM, model_folder, torch.float32, SETTING)
    backbone = skeleton(AutoModel, model_folder, torch.float32, SETTING)
    with fake_ranks(ranks) as mesh:
        policy = measured(PolicyNetwork(model), model, mesh)
        critic = measured(ValueNetwork(backbone, seed=0), backbone, mesh) if value else NOTHING
    config: Any = model.config.get_text_config()
    heads = config.num_attention_heads
    return Shapes(
        policy=policy,
        value=critic,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        context=getattr(config, "max_position_embeddings", 0),
    )


def measured(network: nn.Module, model: Any, mesh: DeviceMesh) -> Network:
    """Shards the network and counts; of layers that are alike one is sharded, and counts as often."""
    layers = list(map(size_of, decoder_layers(model)))
    parts = sum(map(size_of, separate_parts(model)))
    total = size_of(network)
    repeated = merge_layers(model)
    shard(network, model, mesh)
    if not isinstance(network, FSDPModule):
        raise ConfigError(f"{type(model).__name__} could not be sharded")
    return Network(
        weights=total,
        shard=held(network) + sum(times * held(layer) for layer, times in repeated),
        layer=max(layers),
        embeddings=parts - sum(layers),
        root=total - parts,
    )


def merge_layers(model: Any) -> list[tuple[nn.Module, int]]:
    """Put the first of each kind of layer in the place of the others; which layers, how many others.

    FSDP2 makes a tensor for each weight and rank, which for all layers and thousands of ranks takes minutes.
    """
    layers = decoder_layers(model)
    first: dict[Any, nn.Module] = {}
    for layer in layers:
        first.setdefault(_kind(layer), layer)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if any(child is layer for layer in layers):
                setattr(parent, name, first[_kind(child)])
    counts = Counter(map(_kind, layers))
    return [(layer, counts[kind] - 1) for kind, layer in first.items()]


def _kind(layer: nn.Module) -> Any:
    return type(layer), tuple((name, weight.shape) for name, weight in layer.named_parameters())


def held(module: nn.Module) -> int:
    """Number of weights of which this rank has the rows."""
    return sum(local_part(weight)[0].numel() for weight in module.parameters())


def size_of(module: nn.Module) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in module.parameters())


@contextmanager
def fake_ranks(size: int) -> Iterator[DeviceMesh]:
    """A mesh of `size` ranks of which this process is the first; nothing is ever sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise ConfigError("a plan needs a process without a process group")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield init_device_mesh("cpu", (size,), mesh_dim_names=("data_parallel",))
    finally:
        dist.destroy_process_group()
