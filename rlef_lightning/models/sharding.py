"""Network, device mesh -> the same network with its weights sharded over the ranks by FSDP2.

Each decoder layer is gathered for the length of its own forward or backward pass, the rest with the root.
Loads no weights and writes none.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel


def shard(network: nn.Module, model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Shard a network in place.

    Args:
        network: Whose forward call is the root: a policy or value network.
        model: The transformer within it, which knows what its layers are.
        mesh: One dimension: the ranks that share the weights.
    """
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for part in network.modules():
        if isinstance(part, FSDPModule):
            # Losses are divided by counts over all ranks, so gradients are added up, not averaged. Plain sums
            # are what gloo can do, too.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def reshard(network: nn.Module) -> None:
    """Leave every rank with its shards: a forward pass without gradients keeps the root's weights whole."""
    for part in network.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers, by the names that transformers gives to modules which must stay in one piece."""
    names: Any = model._no_split_modules or ()
    return [part for part in model.modules() if type(part).__name__ in names]
