"""Network, device mesh -> the same network with its weights sharded over the ranks by FSDP2.

Each decoder layer is gathered for the length of its own forward or backward pass, so are the embeddings; the
rest with the root.
Loads no weights and writes none.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


def shard(
    network: nn.Module,
    model: PreTrainedModel,
    mesh: DeviceMesh,
    *,
    compute: torch.dtype | None = None,
    offload: bool = False,
) -> None:
    """Shard a network in place. Gradients are reduced, and kept, in the weights' own number format.

    Args:
        network: Whose forward call is the root: a policy or value network.
        model: The transformer within it, which knows what its layers are.
        mesh: One dimension: the ranks that share the weights.
        compute: Number format of gathered weights and what is computed with them; None: the weights' own.
        offload: Keep the shards in the host's memory between passes.
    """
    options: dict[str, Any] = {"mesh": mesh}
    if compute is not None:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=_dtype_of(network))
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    for part in separate_parts(model):
        fully_shard(part, **options)
    fully_shard(network, **options)
    for part in network.modules():
        if isinstance(part, FSDPModule):
            # Losses are divided by counts over all ranks, so gradients are added up, not averaged. Plain sums
            # are what gloo can do, too.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def separate_parts(model: PreTrainedModel) -> list[nn.Module]:
    """What is gathered by itself: each layer, and the embeddings unless the output layer is the same tensor.

    The output layer is used within the root's own call (networks.py), so it is gathered with the root.
    """
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    tied = output is not None and output.weight is embeddings.weight
    return [*decoder_layers(model), *([] if tied else [embeddings])]


def recompute_layers(model: PreTrainedModel) -> None:
    """Keep each layer's input only, and compute the layer again in the backward pass; before `shard`.

    Inside the layer's own call, so that its weights are gathered once for computing again and for gradients.
    """
    for layer in decoder_layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def _dtype_of(network: nn.Module) -> torch.dtype:
    """Of the weights that are trained, or of all."""
    trained = (weight for weight in network.parameters() if weight.requires_grad)
    return next(trained, next(network.parameters())).dtype


def reshard(network: nn.Module) -> None:
    """Leave every rank with its shards: a forward pass without gradients keeps the root's weights whole."""
    for part in network.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers, by the names that transformers gives to modules which must stay in one piece."""
    names: Any = model._no_split_modules or ()
    return [part for part in model.modules() if type(part).__name__ in names]
