"""Checkpoint of a run + the model folder it started from -> a Hugging Face folder with the trained policy.

Reads a checkpoint in one file and a folder of shards alike, in one process. Weights go from the checkpoint
into the place from which they are written, one tensor at a time: the process holds the model once. It trains
and samples nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.fingerprint import folder_fingerprint
from rlef_lightning.models.lora import (
    ADAPTERS_OF,
    BASE,
    add_adapters,
    check_base,
    is_adapter,
    merge_adapters,
    of_description,
)
from rlef_lightning.models.networks import load_policy
from rlef_lightning.models.sharding import decoder_layers
from rlef_lightning.models.skeleton import give_memory, skeleton
from rlef_lightning.models.tokenizer import load_tokenizer
from rlef_lightning.models.weights import export_folder, write_adapter

PREFIX = "policy.model."
"""Of the policy's weights in a checkpoint."""
META = "meta.pt"
"""The file of a folder of shards, Lightning's, that has all but the shards."""
SETTING = "--model_folder"
T = TypeVar("T")


def export(
    checkpoint: str | Path,
    model_folder: str,
    target: str | Path,
    dtype: torch.dtype,
    *,
    adapter: bool = False,
) -> Path:
    """Write the policy of a checkpoint, with tokenizer, as a folder that transformers and vLLM load.

    LoRA adapters are merged in float32, and then brought to `dtype`. Memory: the model once, in float32 (with
    LoRA in the larger of its base's number format and `dtype`), and about one tensor.

    Args:
        checkpoint: A file, or a folder of shards.
        model_folder: `model.model_folder` of the run: architecture, tokenizer, and what LoRA left as it was;
            its other weights are not read.
        target: The new folder; one that is there is replaced.
        dtype: Of the written weights; float32 are those of the checkpoint to the bit.
        adapter: The adapters alone, in PEFT's form, float32.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another model, or its adapters are of another
            base; the folder cannot be written.
    """
    path = Path(checkpoint)
    adapters = _read(path, lambda: _adapters_of(path))
    if adapters is None:
        if adapter:
            raise CheckpointError(f"--adapter: {checkpoint} is of a run without model.lora")
        model = skeleton(AutoModelForCausalLM, model_folder, torch.float32, SETTING)
        give_memory(model, model, "cpu")
        _fill(model, path, model.state_dict())
    else:
        own = {BASE: folder_fingerprint(model_folder, SETTING)}
        check_base(adapters, own, f"{SETTING} {model_folder}")
        lora, base_dtype = of_description(adapters)
        model = load_policy(model_folder, getattr(torch, base_dtype), SETTING)
        add_adapters(model, decoder_layers(model), lora)
        filled = {name: weight for name, weight in model.state_dict().items() if is_adapter(name)}
        _fill(model, path, filled)
        if adapter:
            return write_adapter(model, lora, model_folder, target)
        merge_adapters(model, dtype)
    return export_folder(model.to(dtype), load_tokenizer(model_folder), target)


@torch.no_grad()
def _fill(model: PreTrainedModel, checkpoint: Path, own: Mapping[str, Tensor]) -> None:
    """Overwrite these weights of the model with those of the checkpoint."""
    if checkpoint.is_dir():
        _read(checkpoint, lambda: _into(own, checkpoint))
        return
    stored = _read(checkpoint, lambda: _of_file(checkpoint))
    for name, weight in own.items():
        if name not in stored or stored[name].shape != weight.shape:
            found = tuple(stored[name].shape) if name in stored else "missing"
            raise CheckpointError(
                f"{checkpoint} is of another model than --model_folder: {name} is {found} there and "
                f"{tuple(weight.shape)} here"
            )
        weight.copy_(stored[name])


def _read(checkpoint: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except CheckpointError:
        raise
    except (Exception, dcp.CheckpointException) as error:  # many kinds, and one that is no Exception
        raise CheckpointError(f"{checkpoint} cannot be read as a checkpoint: {error}") from error


def _adapters_of(path: Path) -> Mapping[str, Any] | None:
    """What the checkpoint says of its adapters; None: it has whole weights."""
    file = path / META if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        return None
    found: Mapping[str, Any] | None = _loaded(file).get(ADAPTERS_OF)
    return found


def _loaded(path: Path) -> dict[str, Any]:
    """A file's content; nothing in it is run as code."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content


def _of_file(path: Path) -> Mapping[str, Tensor]:
    """The policy's weights, in the mapped file."""
    stored = _loaded(path)["state_dict"]
    return {name.removeprefix(PREFIX): weight for name, weight in stored.items() if name.startswith(PREFIX)}


def _into(own: Mapping[str, Tensor], path: Path) -> None:
    """Read shards, each into its rows of these weights."""
    wanted = {f"{PREFIX}{name}": weight.detach() for name, weight in own.items()}
    dcp.load({"state_dict": wanted}, checkpoint_id=str(path), no_dist=True)


def main(arguments: Sequence[str]) -> int:
    """The command line of `rlef export`."""
    parser = argparse.ArgumentParser(
        prog="rlef export", description="Write a trained policy as a Hugging Face folder, tokenizer included."
    )
    parser.add_argument("checkpoint", type=Path, help="a .ckpt: a file, or a folder of shards")
    parser.add_argument("--model_folder", required=True, help="model.model_folder of the run")
    parser.add_argument("--to", type=Path, required=True, help="the new folder; an old one is replaced")
    how = "of the written weights; default: %(default)s, as in the checkpoint"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=how)
    parser.add_argument(
        "--adapter", action="store_true", help="LoRA's adapters alone, not merged, in the form of PEFT"
    )
    options = parser.parse_args(list(arguments))
    dtype = getattr(torch, options.dtype)
    written = export(options.checkpoint, options.model_folder, options.to, dtype, adapter=options.adapter)
    print(f"written to {written}")
    return 0
