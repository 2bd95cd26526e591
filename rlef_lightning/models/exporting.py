"""Checkpoint of a run + the model folder it started from -> a Hugging Face folder with the trained policy.

Reads a checkpoint in one file and a folder of shards alike, in one process. It trains and samples nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from transformers import PreTrainedModel

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.networks import load_policy
from rlef_lightning.models.tokenizer import load_tokenizer
from rlef_lightning.models.weights import export_folder

PREFIX = "policy.model."
"""Of the policy's weights in a checkpoint."""


def export(checkpoint: str | Path, model_folder: str, target: str | Path, dtype: torch.dtype) -> Path:
    """Write the policy of a checkpoint, with tokenizer, as a folder that transformers and vLLM load.

    Args:
        checkpoint: A file, or a folder of shards.
        model_folder: `model.model_folder` of the run: architecture and tokenizer.
        target: The new folder; one that is there is replaced.
        dtype: Of the written weights; float32 are those of the checkpoint to the bit.

    Raises:
        CheckpointError: the checkpoint cannot be read or is of another model; the folder cannot be written.
    """
    model = load_policy(model_folder, setting="--model_folder")
    _fill(model, Path(checkpoint))
    return export_folder(model.to(dtype), load_tokenizer(model_folder), target)


@torch.no_grad()
def _fill(model: PreTrainedModel, checkpoint: Path) -> None:
    own = model.state_dict()
    try:
        stored = _of_shards(own, checkpoint) if checkpoint.is_dir() else _of_file(checkpoint)
    except CheckpointError:
        raise
    except (Exception, dcp.CheckpointException) as error:  # many kinds, and one that is no Exception
        raise CheckpointError(f"{checkpoint} cannot be read as a checkpoint: {error}") from error
    for name, weight in own.items():
        if name not in stored or stored[name].shape != weight.shape:
            found = tuple(stored[name].shape) if name in stored else "missing"
            raise CheckpointError(
                f"{checkpoint} is of another model than --model_folder: {name} is {found} there and "
                f"{tuple(weight.shape)} here"
            )
        weight.copy_(stored[name])


def _of_file(path: Path) -> Mapping[str, Tensor]:
    """The policy's weights; nothing in the file is run as code."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    return {name.removeprefix(PREFIX): weight for name, weight in stored.items() if name.startswith(PREFIX)}


def _of_shards(own: Mapping[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    wanted = {f"{PREFIX}{name}": torch.empty_like(weight) for name, weight in own.items()}
    dcp.load({"state_dict": wanted}, checkpoint_id=str(path), no_dist=True)
    return {name.removeprefix(PREFIX): weight for name, weight in wanted.items()}


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
    options = parser.parse_args(list(arguments))
    dtype = getattr(torch, options.dtype)
    print(f"written to {export(options.checkpoint, options.model_folder, options.to, dtype)}")
    return 0
