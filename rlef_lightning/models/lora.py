"""Linear layers of a model -> the same with low-rank adapters beside their frozen weights (arXiv 2106.09685).

The model's own weights keep their names; those of adapters end with `.lora_A` and `.lora_B`. A base without
adapters is a switch away, and merged weights are made one at a time. Reads and writes no files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from rlef_lightning.errors import CheckpointError, ConfigError
from rlef_lightning.models.reading import ADAPTERS, local_part

ADAPTERS_OF = "lora"
"""The entry of a checkpoint with the description of its adapters."""
BASE = "base"
"""In the description: the fingerprint of the folder whose weights the adapters are of."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Train low-rank adapters, W + (alpha / rank) B A, and leave W as it is.

    Example: Lora(rank=16, alpha=32.0, target_modules=("q_proj", "v_proj"))
    """

    rank: int = 16
    """Rows of A and columns of B."""
    alpha: float = 32.0
    """The adapters' product counts alpha / rank."""
    dropout: float = 0.0
    """Must be 0: with dropout the ratio of new to old probabilities would not be 1 before the first step, and
    the trainer would not be the policy that the engine samples from."""
    target_modules: tuple[str, ...] | None = None
    """Last names of the linear layers that get adapters; null: all within the decoder layers."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(
                f"model.lora.rank is {self.rank} and model.lora.alpha {self.alpha}; the rank must be at "
                "least 1 and alpha above 0"
            )
        if self.dropout != 0:
            raise ConfigError(
                f"model.lora.dropout is {self.dropout}; it must be 0: the updates compare probabilities with "
                "those at collection, and the engine samples without dropout"
            )

    @property
    def scale(self) -> float:
        """Of the adapters' product."""
        return self.alpha / self.rank


def described(lora: Lora, base_dtype: str, base: str) -> dict[str, Any]:
    """What a checkpoint of adapters must say of them, in plain values; `base` is a fingerprint."""
    targets = None if lora.target_modules is None else list(lora.target_modules)
    numbers = {"rank": lora.rank, "alpha": lora.alpha, "target_modules": targets}
    return {**numbers, "base_dtype": base_dtype, BASE: base}


def check_base(stored: Mapping[str, Any], own: Mapping[str, Any], option: str) -> None:
    """Refuse to put adapters beside other weights than those that they were trained beside.

    Args:
        stored: What the checkpoint says of its adapters; of an older version it does not say of which base.
        own: Has the fingerprint of the folder at hand.
        option: That names this folder, with its value, for errors.

    Raises:
        CheckpointError: it is another one.
    """
    if BASE not in stored:
        logging.getLogger(__name__).warning(
            "the checkpoint does not say which weights its adapters are of (it is of an older version): "
            "those of %s are taken for them",
            option,
        )
    elif stored[BASE] != own[BASE]:
        raise CheckpointError(
            f"the adapters in the checkpoint are of a base with the fingerprint {stored[BASE]}, the weights "
            f"of {option} have {own[BASE]}: name the model folder that the run started from"
        )


def of_description(stored: Mapping[str, Any]) -> tuple[Lora, str]:
    """The adapters and the number format of their base."""
    targets = stored["target_modules"]
    lora = Lora(
        rank=stored["rank"],
        alpha=stored["alpha"],
        target_modules=None if targets is None else tuple(targets),
    )
    return lora, stored["base_dtype"]


class LoraLinear(nn.Linear):
    """x -> W x + scale B A x, W frozen. Shapes: W [out, in], A [rank, in], B [out, rank], float32."""

    adapted = True
    """False: W x alone."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        """Takes over the weights of `linear`."""
        size, bias = (linear.in_features, linear.out_features), linear.bias is not None
        super().__init__(*size, bias=bias, device="meta", dtype=linear.weight.dtype)
        self.weight, self.bias = linear.weight, linear.bias
        options: dict[str, Any] = {"device": linear.weight.device, "dtype": torch.float32}
        self.lora_A = nn.Parameter(torch.empty(rank, size[0], **options))
        self.lora_B = nn.Parameter(torch.zeros(size[1], rank, **options))
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        """In the input's number format."""
        base = super().forward(input)
        if not self.adapted:
            return base
        down, up = self.lora_A.to(input.dtype), self.lora_B.to(input.dtype)
        return base + self.scale * F.linear(F.linear(input, down), up)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """W + scale B A, whole, in float32, as a new tensor; the base stays as it is."""
        weight, down, up = (whole(part) for part in (self.weight, self.lora_A, self.lora_B))
        if weight.dtype == torch.float32:
            return torch.addmm(weight, up, down, alpha=self.scale)
        return weight.float().addmm_(up, down, alpha=self.scale)


def add_adapters(model: nn.Module, layers: list[nn.Module], lora: Lora) -> None:
    """Freeze a model, and put adapters beside the linear layers within `layers`.

    Raises:
        ConfigError: a target is not the name of any linear layer there.
    """
    model.requires_grad_(False)
    found = [
        (parent, name, child)
        for layer in layers
        for parent in layer.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    names = {name for _, name, _ in found}
    wanted = names if lora.target_modules is None else set(lora.target_modules)
    if not wanted or wanted - names:
        raise ConfigError(
            f"model.lora.target_modules: {', '.join(sorted(wanted - names)) or 'nothing'} to adapt; the "
            f"linear layers of this model are {', '.join(sorted(names))}"
        )
    for parent, name, child in found:
        if name in wanted:
            setattr(parent, name, LoraLinear(child, lora.rank, lora.scale))


@torch.no_grad()
def reset_adapters(model: nn.Module, seed: int) -> None:
    """A uniform within 1 / sqrt(in), B zero: at first the adapters change nothing.

    The same seed gives the same adapters on every device and any number of ranks.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for layer in adapted_layers(model).values():
        # Lightning makes a GPU the default device here, with which a CPU's generator does not go together.
        drawn = torch.rand(layer.lora_A.shape, generator=generator, device="cpu") * 2 - 1
        local, part = local_part(layer.lora_A)
        local.copy_(drawn[part] / layer.in_features**0.5)
        local_part(layer.lora_B)[0].zero_()


def adapted_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """By name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, LoraLinear)}


def is_adapter(name: str) -> bool:
    """True for the name of an adapter's weight."""
    return name.endswith(ADAPTERS)


@torch.no_grad()
def merge_adapters(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Plain linear layers again, merged in float32 and then brought to `dtype`, one after the other."""
    layers = adapted_layers(model)
    for name in list(layers):
        layer = layers.pop(name)  # so that its base goes when the merged weight is in its place
        parent = model.get_submodule(name.rpartition(".")[0])
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight, plain.bias = nn.Parameter(layer.merged().to(dtype), requires_grad=False), layer.bias
        setattr(parent, name.rpartition(".")[2], plain)


class WithoutAdapters:
    """A policy as it was before training: the frozen reference, which has no weights of its own."""

    def __init__(self, policy: nn.Module) -> None:
        self._policy = policy

    def __call__(self, packed: Any, head: Callable[[Tensor, Tensor], Any]) -> Any:
        """As the policy's own call."""
        with without_adapters(self._policy):
            return self._policy(packed, head)


@contextmanager
def without_adapters(network: nn.Module) -> Iterator[None]:
    """Within it the network computes with its base alone. Not for a pass that a backward pass repeats."""
    layers = adapted_layers(network).values()
    try:
        for layer in layers:
            layer.adapted = False
        yield
    finally:
        for layer in layers:
            layer.adapted = True


def whole(tensor: Tensor) -> Tensor:
    """Detached, gathered from all ranks where it is sharded."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
