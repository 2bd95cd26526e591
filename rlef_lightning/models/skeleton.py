"""config.json of a Hugging Face folder -> the model on the meta device: shapes and names, no memory.

Reads no weights: that is reading.py's work, once the model has been sharded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.attention import IMPLEMENTATION


def skeleton(kind: Any, path: str | Path, dtype: torch.dtype, setting: str) -> PreTrainedModel:
    """A model of the folder's architecture, with packed attention, all of it on the meta device.

    Args:
        kind: AutoModelForCausalLM, or AutoModel for the network below its output layer.
        path: Hugging Face folder on this machine.
        dtype: Of all weights.
        setting: Name of the option that `path` comes from, for errors.

    Raises:
        CheckpointError: no folder, no readable config.json, or an architecture unknown to transformers.
    """
    folder = Path(path)
    config = read_config(path, setting)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(config, dtype=dtype, attn_implementation=IMPLEMENTATION)
    except Exception as error:  # transformers raises many kinds
        raise CheckpointError(f"cannot build a model from {path} (setting `{setting}`): {error}") from error
    if (folder / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    return model.eval()


def read_config(path: str | Path, setting: str) -> Any:
    """config.json of a folder, as transformers understands it; raises CheckpointError."""
    folder = Path(path)
    check_folder(folder, setting)
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many kinds
        raise CheckpointError(f"cannot build a model from {path} (setting `{setting}`): {error}") from error


def give_memory(network: nn.Module, model: PreTrainedModel, device: torch.device | str) -> None:
    """Memory for all weights of a network, or of this rank's shards of them; their values are arbitrary.

    What is computed from the configuration alone (rotary frequencies), and so stands in no checkpoint, is
    computed anew. Args as in `sharding.shard`.

    Raises:
        CheckpointError: the architecture has something else that stands in no checkpoint.
    """
    network.to_empty(device=device)
    model.tie_weights()  # each name got memory of its own
    kept = set(model.state_dict())
    for place, module in model.named_modules():
        own = {name for name, _ in module.named_buffers(prefix=place, recurse=False)} - kept
        if own:
            _compute_buffers(module, sorted(own), device)


def _compute_buffers(module: nn.Module, names: list[str], device: torch.device | str) -> None:
    config = getattr(module, "config", None)
    if config is None:
        raise CheckpointError(
            f"{type(module).__name__} has {', '.join(names)}, which is in no checkpoint and is not computed "
            "from the configuration alone: this architecture is not supported"
        )
    fresh = type(module)(config=config)
    for name, tensor in fresh.named_buffers(recurse=False):
        module.register_buffer(name, tensor.to(device), persistent=False)


def check_folder(path: Path, setting: str) -> None:
    """Raises CheckpointError unless the folder has a config.json that can be read."""
    config = path / "config.json"
    if not config.is_file():
        raise CheckpointError(
            f"{path} is not a model folder: it has no config.json; set `{setting}` to a Hugging Face "
            "folder on this machine"
        )
    try:
        json.loads(config.read_text())
    except ValueError as error:
        raise CheckpointError(f"{config} is not JSON ({error}); check the folder in `{setting}`") from error
