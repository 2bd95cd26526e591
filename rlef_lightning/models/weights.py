"""Model -> named weights for the engine, or a folder in Hugging Face's form.

Knows no engine: the names are those of the model's own checkpoint, which engines read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.lora import Lora, adapted_layers, is_adapter, whole

OUTPUT_LAYER = "lm_head.weight"


class SavesPretrained(Protocol):
    """A tokenizer, as far as exporting is concerned."""

    def save_pretrained(self, save_directory: str) -> Any:
        """Write its files into a folder."""


def engine_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its checkpoint name, detached, whole and one at a time.

    A tied output layer comes out by its own name too: the engine is started with untied weights, for
    an engine that copies or packs its output layer would else keep the old one.

    With LoRA adapters the merged weights, each made when its turn comes: the engine knows no adapters.

    Sharded weights are gathered from the ranks one by one, a layer's together; nothing is kept of them here.
    Every rank must exhaust this iterator, and the model must have been resharded (sharding.py).
    """
    state = model.state_dict()
    # An engine loads a tensor's layer when all of the layer's tensors are there, and keeps them until then.
    adapted = {f"{name}.weight": layer for name, layer in adapted_layers(model).items()}
    for name, tensor in state.items():
        if name in adapted:
            yield name, adapted[name].merged()
        elif not is_adapter(name):
            yield name, whole(tensor)
    if OUTPUT_LAYER not in state:
        yield OUTPUT_LAYER, whole(model.get_output_embeddings().weight)


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

    def write(folder: str) -> None:
        model.save_pretrained(folder, state_dict=None if state_dict is None else dict(state_dict))
        tokenizer.save_pretrained(folder)

    return _whole_or_not(Path(path), write)


def write_adapter(model: PreTrainedModel, lora: Lora, base: str, path: str | Path) -> Path:
    """The adapters of a model in the form of PEFT, which vLLM loads, too; raises CheckpointError.

    `base` is what the adapters are of: a folder's path, written into the adapter's config.
    """
    layers = adapted_layers(model)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
    }
    weights = {
        f"base_model.model.{name}.{part}.weight": getattr(layer, part).detach().contiguous()
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }

    def write(folder: str) -> None:
        Path(folder, "adapter_config.json").write_text(json.dumps(config, indent=2))
        save_file(weights, Path(folder, "adapter_model.safetensors"), metadata={"format": "pt"})

    return _whole_or_not(Path(path), write)


def _whole_or_not(path: Path, write: Callable[[str], None]) -> Path:
    fresh = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        fresh.mkdir(parents=True)
        write(str(fresh))
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
