"""Model -> named weights for the engine, or a folder in Hugging Face's form.

Knows no engine: the names are those of the model's own checkpoint, which engines read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rlef_lightning.errors import CheckpointError

OUTPUT_LAYER = "lm_head.weight"


class SavesPretrained(Protocol):
    """A tokenizer, as far as exporting is concerned."""

    def save_pretrained(self, save_directory: str) -> Any:
        """Write its files into a folder."""


def engine_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its checkpoint name, detached, whole and one at a time.

    A tied output layer comes out by its own name too: the engine is started with untied weights, for
    an engine that copies or packs its output layer would else keep the old one.

    Sharded weights are gathered from the ranks one by one, a layer's together; nothing is kept of them here.
    Every rank must exhaust this iterator, and the model must have been resharded (sharding.py).
    """
    state = model.state_dict()
    # An engine loads a tensor's layer when all of the layer's tensors are there, and keeps them until then.
    for name, tensor in state.items():
        yield name, _whole(tensor)
    if OUTPUT_LAYER not in state:
        yield OUTPUT_LAYER, _whole(model.get_output_embeddings().weight)


def export_folder(
    model: PreTrainedModel,
    tokenizer: SavesPretrained,
    path: str | Path,
    state_dict: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write model and tokenizer as one folder that appears complete or not at all; returns it.

    The files are written beside `path` and moved there at the end; a folder that was there before is
    replaced. `state_dict` overrides the model's own weights, for a sharded model whose weights were
    gathered before. Raises CheckpointError when the folder cannot be written.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        fresh.mkdir(parents=True)
        model.save_pretrained(str(fresh), state_dict=None if state_dict is None else dict(state_dict))
        tokenizer.save_pretrained(str(fresh))
        _swap(fresh, path)
    except OSError as error:
        raise CheckpointError(f"cannot write the model to {path}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return path


def _swap(fresh: Path, path: Path) -> None:
    """Put `fresh` in the place of `path`. A folder cannot be renamed over a full one: two renames."""
    old = fresh.with_suffix(".old")
    if path.exists():
        os.rename(path, old)
    os.rename(fresh, path)
    shutil.rmtree(old, ignore_errors=True)


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
