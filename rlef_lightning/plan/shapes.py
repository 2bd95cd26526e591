"""Model folder, number of ranks -> the real sharded networks on the meta device, and their sizes on one rank.

The process group is torch's own fake one of the run's size, so shard sizes are those that FSDP2 makes there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from rlef_lightning.errors import ConfigError
from rlef_lightning.models.lora import Lora, add_adapters, is_adapter
from rlef_lightning.models.networks import PolicyNetwork, PolicyValueNetwork, ValueNetwork
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
    root_shard: int
    """Of it on rank 0."""
    root_trained: int
    """Of that shard: all of it, or what is trained beside LoRA: a value head."""
    trained: int
    """Of the shard: all of it, or what LoRA trains."""
    trained_weights: int
    """Of all ranks' shards."""
    adapters: int = 0
    """Of LoRA, of one decoder layer; 0 without."""
    layers: int = 0

    @property
    def engine_weights(self) -> int:
        """Without adapters, which the engine gets merged."""
        return self.weights - self.adapters * self.layers


NOTHING = Network(
    weights=0, shard=0, layer=0, embeddings=0, root=0, root_shard=0, root_trained=0, trained=0,
    trained_weights=0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Of policy, reference and value network, and of the policy's transformer."""

    policy: Network
    reference: Network
    value: Network
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    context: int


def shapes(
    model_folder: str,
    ranks: int,
    *,
    values: str | None = "own",
    reference_folder: str | None = None,
    value_folder: str | None = None,
    lora: Lora | None = None,
) -> Shapes:
    """Builds and shards; takes no memory for weights. Raises CheckpointError, ConfigError.

    Args:
        model_folder: Of which config.json is read.
        ranks: Processes that share the weights.
        values: "own": of a network of their own; "shared": of a head on the policy's trunk, which counts to
            the policy; None: there are none.
        reference_folder: None: the policy's.
        value_folder: None: the policy's.
        lora: Adapters of the policy.
    """
    model = _skeleton(AutoModelForCausalLM, model_folder, SETTING)
    if lora is not None:
        add_adapters(model, decoder_layers(model), lora)
    network = PolicyValueNetwork(model, seed=0) if values == "shared" else PolicyNetwork(model)
    with fake_ranks(ranks) as mesh:
        policy = measured(network, model, mesh)
        reference = policy
        if reference_folder is not None or values == "shared" or lora is not None:
            frozen = _skeleton(
                AutoModelForCausalLM, reference_folder or model_folder, "model.reference_folder"
            )
            reference = measured(PolicyNetwork(frozen), frozen, mesh)
        critic = NOTHING
        if values == "own":
            backbone = _skeleton(AutoModel, value_folder or model_folder, "model.value_folder")
            critic = measured(ValueNetwork(backbone, seed=0), backbone, mesh)
    config: Any = model.config.get_text_config()
    heads = config.num_attention_heads
    return Shapes(
        policy=policy,
        reference=reference,
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


def _skeleton(kind: Any, folder: str, setting: str) -> PreTrainedModel:
    return skeleton(kind, folder, torch.float32, setting)


def measured(network: nn.Module, model: Any, mesh: DeviceMesh) -> Network:
    """Shards the network and counts; of layers that are alike one is sharded, and counts as often."""
    layers = list(map(size_of, decoder_layers(model)))
    parts = sum(map(size_of, separate_parts(model)))
    total = size_of(network)
    adapters = sum(w.numel() for n, w in decoder_layers(model)[0].named_parameters() if is_adapter(n))
    trained_weights = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    repeated = merge_layers(model)
    apart = separate_parts(model)  # before they are sharded, which gives layers another name
    shard(network, model, mesh)
    if not isinstance(network, FSDPModule):
        raise ConfigError(f"{type(model).__name__} could not be sharded")
    root = partial(held_by_root, network, apart)
    return Network(
        weights=total,
        shard=held(network, repeated),
        layer=max(layers),
        embeddings=parts - sum(layers),
        root=total - parts,
        root_shard=root(),
        root_trained=root(trains),
        trained=held(network, repeated, trains),
        trained_weights=trained_weights,
        adapters=adapters,
        layers=len(layers),
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


def held(
    network: nn.Module,
    repeated: Sequence[tuple[nn.Module, int]] = (),
    counts: Callable[[nn.Parameter], bool] = lambda weight: True,
) -> int:
    """Number of weights that count and of which this rank has the rows, in all layers."""

    def own(module: nn.Module) -> int:
        return sum(local_part(weight)[0].numel() for weight in module.parameters() if counts(weight))

    return own(network) + sum(times * own(layer) for layer, times in repeated)


def held_by_root(
    network: nn.Module,
    apart: Sequence[nn.Module],
    counts: Callable[[nn.Parameter], bool] = lambda weight: True,
) -> int:
    """The same of what is in none of the parts that are gathered by themselves."""
    return held(network, counts=counts) - sum(held(part, counts=counts) for part in apart)


def trains(weight: nn.Parameter) -> bool:
    """Not frozen."""
    return weight.requires_grad


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
