"""The trainer's named weights -> vLLM's parameters: by vLLM's reload, or by the copies that its loader makes.

vLLM's reload builds each layer anew and copies it over the old one, as it must where a kernel keeps the
weights in a form of its own (packed, quantised). Where layers compute with their plain parameters, all that
its loader does is a fixed list of copies: which part of which tensor goes where. The loader is watched once,
with tensors that hold nothing, and later syncs make those copies. Where they do not account for every
element, vLLM's reload stays. This file decides how weights get in; that the engine then has them is proved
elsewhere, after each sync.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from rlef_lightning.errors import EngineError

_COPY = torch.ops.aten.copy_.default
_FILLS = (torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default)
_PLAIN_METHODS = ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod")
_PLAIN_ATTENTION = "Attention"

NARROW = 192
"""Hidden size up to which plain products in float32 take no more time than oneDNN's. On one core, with steps
of 20 to 430 tokens, they took 0.73 of its time at 128, 0.99 at 192, 1.11 at 256 and 1.38 at 512."""
ROWS = 8
"""Fewest rows of a plain product, for each of torch's threads, which share them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A rectangle of a tensor."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    """In elements, from the tensor's first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of vLLM's loader."""

    target: Tensor
    """A view of one of the engine's parameters."""
    part: Part | None
    """Of the tensor that came; None: all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What becomes of one tensor."""

    shape: torch.Size
    copies: tuple[Copy, ...]
    """None at all, where the loader leaves the tensor out: an output layer that is tied, for instance."""


class Unknown(Exception):
    """The loader does something else than copies, or they do not fill the parameters."""


class WeightsInto:
    """Gives new weights to one engine.

    Args:
        llm: A `vllm.LLM`, in this process.
        packed: False: it was built `unpacked`.
    """

    def __init__(self, llm: Any, *, packed: bool) -> None:
        self._llm, self._packed = llm, packed
        self._recipes: dict[str, Recipe] | None = None
        self.reason = "there was no sync yet"
        """Why vLLM's reload is used; empty: its loader's copies are made."""

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights.

        Raises:
            EngineError: other weights have come than those of the first time.
        """
        if self._recipes is not None:
            make_copies(self._recipes, weights)
            return
        shapes: dict[str, torch.Size] = {}
        first = self.reason == "there was no sync yet"
        noted = _noted(weights, shapes)
        with nullcontext() if self._packed else unpacked():  # the reload builds the layers once more
            self._llm.llm_engine.collective_rpc("reload_weights", kwargs={"weights_iterator": noted})
        if first:
            self._watch(shapes)

    def _watch(self, shapes: Mapping[str, torch.Size]) -> None:
        """Find the copies for the next time."""
        try:
            (self._recipes,) = self._llm.apply_model(lambda model: recipes_of(model, shapes))
        except Unknown as reason:
            self.reason = str(reason)
        except Exception as error:  # whatever another version of vLLM does: its reload is always right
            self.reason = f"{type(error).__name__}: {error}"
        else:
            self.reason = ""


def _noted(
    weights: Iterable[tuple[str, Tensor]], shapes: dict[str, torch.Size]
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights:
        shapes[name] = tensor.shape
        yield name, tensor


@torch.no_grad()
def make_copies(recipes: Mapping[str, Recipe], weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy each tensor to where it belongs, as it comes.

    Raises:
        EngineError: a tensor has another name or shape than before, or one is missing.
    """
    missing = set(recipes)
    for name, tensor in weights:
        recipe = recipes.get(name)
        if recipe is None or tensor.shape != recipe.shape:
            raise EngineError(f"the engine has no place for {name} of shape {tuple(tensor.shape)}")
        missing.discard(name)
        for copy in recipe.copies:
            copy.target.copy_(tensor if copy.part is None else _part(tensor, copy.part))
    if missing:
        raise EngineError(f"no new weights came for {', '.join(sorted(missing)[:5])}")
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the tensors that came may be freed from now on


def _part(tensor: Tensor, part: Part) -> Tensor:
    whole = tensor.contiguous()
    return whole.as_strided(part.size, part.stride, whole.storage_offset() + part.offset)


# ---- watching the loader -----------------------------------------------------------------------


@torch.no_grad()
def recipes_of(model: nn.Module, shapes: Mapping[str, torch.Size]) -> dict[str, Recipe]:
    """What `model.load_weights` does with tensors of these names and shapes; the parameters stay as they are.

    Raises:
        Unknown: it cannot be said in copies that fill every parameter once.
    """
    check_plain(model)
    seen = _Watch(model)
    before = [(parameter, parameter.data) for parameter in model.parameters()]
    with seen:
        model.load_weights(seen.empty(shapes))  # type: ignore[operator]
    _check_in_place(before)
    seen.check_filled()
    return {name: Recipe(shape=shape, copies=tuple(seen.copies[name])) for name, shape in shapes.items()}


def _check_in_place(before: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    """Raises Unknown where a parameter was given other memory; it gets its own back."""
    moved = [(p, data) for p, data in before if _storage(p) != _storage(data) or p.shape != data.shape]
    for parameter, data in moved:
        parameter.data = data
    if moved:
        raise Unknown(f"vLLM's loader gives {len(moved)} parameters other memory")


def check_plain(model: nn.Module) -> None:
    """Raises Unknown where a layer does not compute with its plain parameters alone."""
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if method is not None and type(method).__name__ not in _PLAIN_METHODS:
            raise Unknown(f"{name} has weights of the kind {type(method).__name__}")
        # A function without a closure can hold no packed weights.
        if getattr(getattr(module, "cpu_linear", None), "__closure__", None) is not None:
            raise Unknown(f"{name} computes with packed weights")
        processes = hasattr(module, "process_weights_after_loading")
        if processes and type(module).__name__ != _PLAIN_ATTENTION:
            raise Unknown(f"{name} derives something from its weights ({type(module).__name__})")


class _Watch(TorchDispatchMode):
    """Notes copies into parameters and makes none of them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._parameters = {_storage(p): (name, p) for name, p in model.named_parameters()}
        if len(self._parameters) < len(list(model.parameters())):
            raise Unknown("parameters share their memory")
        self._filled: dict[str, list[Tensor]] = {name: [] for name, _ in self._parameters.values()}
        self._name, self._source = "", torch.empty(0, device="meta")
        self.copies: dict[str, list[Copy]] = {}

    def empty(self, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
        """Tensors without memory; only the last one counts as a source."""
        for name, shape in shapes.items():
            self._name, self._source = name, torch.empty(shape, device="meta")
            self.copies[name] = []
            yield name, self._source

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As PyTorch calls it for every operation."""
        if func is _COPY:
            self._copied(args[0], args[1])
            return args[0]
        if func in _FILLS:  # of rows that are there to fill up: they keep what they have
            self._fills(args[0])
            return args[0]
        if func._schema.is_mutable and any(self._is_parameter(one) for one in args):
            raise Unknown(f"vLLM's loader changes parameters by {func}")
        return func(*args, **(kwargs or {}))

    def _is_parameter(self, value: Any) -> bool:
        return isinstance(value, Tensor) and not value.is_meta and _storage(value) in self._parameters

    def _fills(self, target: Tensor) -> None:
        if not self._is_parameter(target):
            raise Unknown("vLLM's loader fills what is no parameter")
        self._filled[self._parameters[_storage(target)][0]].append(target)

    def _copied(self, target: Tensor, source: Tensor) -> None:
        own = source.is_meta and source.untyped_storage()._cdata == self._source.untyped_storage()._cdata
        if not own or source.shape != target.shape:
            raise Unknown(f"vLLM's loader makes something else of {self._name} before it copies it")
        self._fills(target)
        whole = source.shape == self._source.shape and source.stride() == self._source.stride()
        offset = int(source.storage_offset())
        part = Part(size=tuple(source.shape), stride=source.stride(), offset=offset)
        self.copies[self._name].append(Copy(target=target.detach(), part=None if whole else part))

    def check_filled(self) -> None:
        """Raises Unknown unless every element of every parameter is written, and once only."""
        for name, parameter in self._parameters.values():
            written = torch.zeros(parameter.numel(), dtype=torch.bool)
            for target in self._filled[name]:
                offset = target.storage_offset() - parameter.storage_offset()
                view = written.as_strided(target.shape, target.stride(), offset)
                if target.dtype != parameter.dtype or view.any():
                    raise Unknown(f"vLLM's loader writes parts of {name} twice")
                view.fill_(True)
            if not written.all() or not parameter.numel():
                raise Unknown(f"vLLM's loader does not write all of {name}")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


# ---- plain weights on a CPU --------------------------------------------------------------------


def packs(model_folder: str, dtype: str) -> bool:
    """False: vLLM is to build layers that compute with their plain parameters, here and for this model.

    On a CPU vLLM packs weights for oneDNN, and each sync packs them anew. oneDNN prepares itself for each new
    number of tokens in a step, which for narrow layers takes longer than what packing saves: there sampling
    is faster with plain weights, too (docs/concepts.md), with one thread; with two it was not found to be.
    On a GPU they are plain anyway.
    """
    if torch.cuda.is_available() or dtype != "float32" or torch.get_num_threads() > 1:
        return True
    config = Path(model_folder, "config.json")
    width = json.loads(config.read_text()).get("hidden_size") if config.is_file() else None
    return width is None or width > NARROW or not rows_alone(width)


def rows_alone(width: int) -> bool:
    """True: here `linear` gives a token the same bits, whatever stands beside it in the batch.

    oneDNN's products do, and a resumed run ends like an uninterrupted one because of it.
    """
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(3 * width, width, generator=draw)
    tokens = torch.randn(130, width, generator=draw)
    whole = linear(tokens, weight)
    return all(torch.equal(linear(tokens[:n], weight), whole[:n]) for n in (*range(1, 20), 31, 33, 64, 127))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As torch's; a few rows are filled up, as the product of a matrix and a vector is rounded otherwise."""
    missing = ROWS * torch.get_num_threads() - x.shape[0]
    if x.dim() != 2 or missing <= 0:
        return functional.linear(x, weight, bias)
    return functional.linear(functional.pad(x, (0, 0, 0, missing)), weight, bias)[:-missing]


def unpacked() -> AbstractContextManager[Any]:
    """While vLLM builds layers for a CPU, they keep their plain parameters and compute by `linear`."""
    from vllm.model_executor.layers import utils

    vllms = getattr(utils, "dispatch_cpu_unquantized_gemm", None)
    if vllms is None:
        return nullcontext()  # another version: it packs, and `check_plain` sees that

    def keep(layer: nn.Module, remove_weight: bool) -> None:
        if layer.weight.ndim == 2 and not layer.weight.is_meta:
            layer.cpu_linear = linear  # type: ignore[assignment]
        else:
            vllms(layer, remove_weight)

    return patch.object(utils, "dispatch_cpu_unquantized_gemm", keep)
