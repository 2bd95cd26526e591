"""safetensors of a Hugging Face folder -> this rank's shards of a model's weights.

Of each tensor only the rows that this rank keeps are read, so no process ever holds a whole model, and at
most one tensor's rows beside its own shards. Builds nothing: see skeleton.py and sharding.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from rlef_lightning.errors import CheckpointError

ADAPTERS = (".lora_A", ".lora_B")
"""Ends of the names of weights that stand in no folder."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Folder:
    """The tensors of a Hugging Face folder by name; a context manager, which keeps its files mapped."""

    def __init__(self, path: str | Path, setting: str) -> None:
        """Raises CheckpointError when a file is missing, or is no whole safetensors file."""
        self._path, self._setting = Path(path), setting
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()
        for file in self._names():
            for tensor in self._open(file).keys():  # noqa: SIM118 (no mapping)
                self._files[tensor] = self._opened
        self.names = frozenset(self._files)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _names(self) -> list[str]:
        index = self._path / INDEX
        if not index.is_file():
            return [SINGLE]
        try:
            return sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} is not an index of weights ({error!r})") from error

    def _open(self, name: str) -> Any:
        file = self._path / name
        if not file.is_file():
            raise CheckpointError(
                f"the weights in {self._path} (setting `{self._setting}`) are incomplete: no file {name}; "
                "weights are read from safetensors files only"
            )
        try:
            self._opened = self._stack.enter_context(safe_open(str(file), framework="pt"))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} (setting `{self._setting}`) cannot be read: {error}. Copy or download it anew"
            ) from error
        return self._opened

    def rows(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a tensor, in the file's number format."""
        whole = self._files[name].get_slice(name)
        read: Tensor = whole[part] if part else self._files[name].get_tensor(name)
        return read

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        return tuple(self._files[name].get_slice(name).get_shape())


@torch.no_grad()
def read_weights(model: nn.Module, path: str | Path, prefix: str, setting: str) -> None:
    """Fill all weights of a model, sharded or not, from its folder.

    Args:
        model: With memory; its values are overwritten, in its own number format.
        path: Hugging Face folder of safetensors files.
        prefix: Of the network below the output layer in the folder's names ("model"); names with and without
            it are the same weight.
        setting: Name of the option that `path` comes from, for errors.

    Raises:
        CheckpointError: a weight is missing or has another shape, or a file cannot be read.
    """
    with Folder(path, setting) as folder:
        wanted = {name: _stored(name, prefix, folder.names) for name, _ in weights_of(model)}
        if missing := sorted(name for name, stored in wanted.items() if stored is None):
            raise CheckpointError(
                f"the weights in {path} (setting `{setting}`) are incomplete: no {', '.join(missing[:5])}"
            )
        for name, weight in weights_of(model):
            stored = wanted[name] or ""
            if folder.shape(stored) != tuple(weight.shape):
                raise CheckpointError(
                    f"{stored} in {path} (setting `{setting}`) is {folder.shape(stored)}, the model's "
                    f"{tuple(weight.shape)}: the folder's config.json is that of another model"
                )
            local, part = local_part(weight)
            if local.numel():
                local.copy_(folder.rows(stored, part))


def weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a folder holds, tied weights once."""
    kept = model.state_dict(keep_vars=True)
    yield from (item for item in model.named_parameters() if not item[0].endswith(ADAPTERS))
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def local_part(weight: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """This rank's part of a weight, and where in the whole it lies."""
    if not isinstance(weight, DTensor):
        return weight, tuple(slice(None) for _ in weight.shape)
    shape, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)
    part = tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))
    return weight.to_local(), part


def _stored(name: str, prefix: str, names: frozenset[str]) -> str | None:
    other = name.removeprefix(f"{prefix}.") if name.startswith(f"{prefix}.") else f"{prefix}.{name}"
    return next((candidate for candidate in (name, other) if candidate in names), None)
