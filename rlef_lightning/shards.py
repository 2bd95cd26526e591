"""Checkpoint on disk, networks of this run -> nothing, or a CheckpointError before any weight is read in.

Reads names and shapes only: of a folder of shards from its list, of a file without loading it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException, FileSystemReader

from rlef_lightning.errors import CheckpointError

SHARDS_LIST = ".metadata"
"""The file of a folder of shards that is written last."""
REST = "meta.pt"
"""The file of a folder of shards, Lightning's, with all but weights and averages."""
_PREFIX = "state_dict."

Shapes = Mapping[str, tuple[int, ...]]
"""Of weights, by name."""


def is_checkpoint(path: Path) -> bool:
    """True for a checkpoint in one file, and for a folder with all its shards and a whole `REST`."""
    return path.is_file() or ((path / SHARDS_LIST).is_file() and _is_archive(path / REST))


def _is_archive(path: Path) -> bool:
    """What torch has written to its end: a zip file whose checksums hold. Nothing in it is run as code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def check_fits(path: Path, own: Shapes, *, trains: bool) -> None:
    """Refuse what is no whole checkpoint, or one of other networks than this run's.

    Args:
        path: Of a file or a folder.
        own: This run's weights.
        trains: The run goes on training, so the checkpoint must hold nothing else either.

    Raises:
        CheckpointError: says what differs, and which option decides it.
    """
    if not is_checkpoint(path):
        raise CheckpointError(f"there is no whole checkpoint {path} (--ckpt_path)")
    stored = shapes_in(path)
    for name, shape in own.items():
        if name not in stored:
            raise _other(path, f"there is no weight {name} in it", _option(name))
        if stored[name] != shape:
            raise _other(
                path, f"weight {name} is {stored[name]} there and {shape} here", "model.model_folder"
            )
    if trains and (extra := sorted(stored.keys() - own.keys())):
        raise _other(path, f"this run does not train its {extra[0]}", _option(extra[0]))


def _option(name: str) -> str:
    """Which option decides whether there is such a weight."""
    return "model.objective" if name.startswith("value.") else "set of networks (the options under model)"


def _other(path: Path | str, difference: str, option: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is of a run with another {option} (--ckpt_path): {difference}; resume with the options of "
        "the run that wrote it, or start anew without --ckpt_path"
    )


def settings_of(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """What the options of a run set in its optimizer, by option; a checkpoint replaces it."""
    return _settings_in([{"param_groups": optimizer.param_groups} for optimizer in optimizers])


def _settings_in(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for group in (group for state in states for group in state["param_groups"]):
        rate = "model.value_learning_rate" if group.get("name") == "value" else "model.learning_rate"
        found[rate] = group.get("initial_lr", group["lr"])
        found["model.weight_decay"], found["model.betas"] = group["weight_decay"], tuple(group["betas"])
    return found


def check_stored(states: Sequence[Mapping[str, Any]], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """The same for the optimizers' states in a checkpoint that is in memory; raises CheckpointError."""
    if states:
        check_settings("the checkpoint", _settings_in(states), settings_of(optimizers))


def check_settings(path: Path | str, stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse to go on with other steps than the options say.

    Raises:
        CheckpointError: names the option.
    """
    for option, value in own.items():
        if stored.get(option) != value:
            raise _other(path, f"it is {stored.get(option)} there and {value} here", option)


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's weights; raises CheckpointError."""
    try:
        if path.is_file():
            return {name: tuple(weight.shape) for name, weight in rest_of(path)["state_dict"].items()}
        listed: Mapping[str, Any] = FileSystemReader(path).read_metadata().state_dict_metadata
    except CheckpointError:
        raise
    except Exception as error:  # torch and pickle raise many kinds for a torn file
        raise unreadable(path, error) from error
    return {
        name.removeprefix(_PREFIX): tuple(kept.size)
        for name, kept in listed.items()
        if name.startswith(_PREFIX) and hasattr(kept, "size")
    }


def rest_of(path: Path) -> dict[str, Any]:
    """A checkpoint's content but for sharded weights and averages; of a file, those stay on the disk.

    Raises:
        CheckpointError: it cannot be read.
    """
    file = path if path.is_file() else path / REST
    try:
        return dict(torch.load(file, mmap=True, map_location="cpu", weights_only=False))
    except Exception as error:  # torch and pickle raise many kinds for a torn file
        raise unreadable(path, error) from error


def unreadable(path: Path, error: BaseException) -> CheckpointError:
    """The error for a checkpoint that could not be read, with the reasons of all ranks."""
    reason = reasons(error) or f"{type(error).__name__}: {error}"
    return CheckpointError(f"{path} cannot be read (--ckpt_path): {reason}")


def reasons(error: BaseException) -> str:
    """Of all ranks that failed, in one line; empty: not such an error, whose own text holds tracebacks."""
    if not isinstance(error, CheckpointException):
        return ""
    failures = error.failures.items()
    return "; ".join(f"rank {rank}: {type(own).__name__}: {own}" for rank, (own, _) in failures)
