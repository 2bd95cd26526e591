"""What a run wants -> its policy, reference and value network, built and sharded.

Decides which networks there are and from which folder; how one is built stands in building.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rlef_lightning.errors import ConfigError
from rlef_lightning.models.agreeing import together
from rlef_lightning.models.building import Place, build_policy, build_reference, build_value
from rlef_lightning.models.fingerprint import folder_fingerprint
from rlef_lightning.models.lora import Lora, WithoutAdapters
from rlef_lightning.models.vocabularies import check_vocabularies
from rlef_lightning.models.windows import check_windows

FOLDER, REFERENCE, VALUE = "model.model_folder", "model.reference_folder", "model.value_folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The networks of a run, by the options of RLEFModule."""

    model_folder: str
    reference_folder: str | None = None
    value_folder: str | None = None
    trains: bool = True
    """False: the policy alone, for sampling."""
    values: str | None = "own"
    """"own": a value network; "shared": a head on the policy's trunk; None: no values."""
    reference_dtype: torch.dtype = torch.float32
    """With LoRA of the policy's base, which is the reference."""
    lora: Lora | None = None
    """Adapters of the policy."""
    seed: int = 0
    """Of value head and adapters."""


def build_networks(wanted: Wanted, trained: Place, frozen: Place) -> tuple[Any, Any, Any]:
    """(policy, reference, value network); None for those that the run does not have.

    Raises:
        CheckpointError: a folder is missing or torn.
        ConfigError: LoRA for layers that the model has not.
    """
    values = wanted.values if wanted.trains else None
    policy = build_policy(
        wanted.model_folder,
        trained,
        # What LoRA does not train need not have the precision of training.
        torch.float32 if wanted.lora is None else wanted.reference_dtype,
        FOLDER,
        value_head=values == "shared",
        lora=wanted.lora,
        seed=wanted.seed,
    )
    reference: Any = None
    if wanted.trains:
        reference = _reference(wanted, frozen) if wanted.lora is None else WithoutAdapters(policy)
    return policy, reference, _value(wanted, trained) if values == "own" else None


def reference_fingerprint(wanted: Wanted, place: Place) -> str:
    """Of the folder of the frozen reference, which with LoRA is the base; "" where the run has neither.

    Raises:
        CheckpointError: a file cannot be read, here or on another rank.
    """
    if not wanted.trains and wanted.lora is None:
        return ""
    work = partial(folder_fingerprint, *_folder(wanted.model_folder, wanted.reference_folder, REFERENCE))
    return work() if place.mesh is None else together(work, place.mesh.get_group())


def check_wanted(wanted: Wanted, *, offloads_reference: bool, context_tokens: int) -> None:
    """Look at config.json and tokenizers alone: nothing has been built or started yet.

    Raises:
        CheckpointError: vocabularies or tokenizers differ.
        ConfigError: options of a network that this run does not have, or episodes of up to `context_tokens`
            that are longer than a network's window of attention.
    """
    check_options(wanted, offloads_reference=offloads_reference)
    others = (wanted.reference_folder, wanted.value_folder) if wanted.trains else (None, None)
    check_vocabularies(wanted.model_folder, *others)
    check_context(wanted, context_tokens)


def check_context(wanted: Wanted, context_tokens: int) -> None:
    """The windows of attention alone, by each network's config.json; raises ConfigError."""
    if wanted.trains:
        options = (FOLDER, REFERENCE, VALUE)
        folders = zip(
            options, (wanted.model_folder, wanted.reference_folder, wanted.value_folder), strict=True
        )
        check_windows({option: folder for option, folder in folders if folder is not None}, context_tokens)


def check_options(wanted: Wanted, *, offloads_reference: bool) -> None:
    """The same without a look at any folder; raises ConfigError."""
    if wanted.value_folder is not None and wanted.values != "own":
        raise ConfigError(
            f"model.value_folder={wanted.value_folder!r} is of a value network of its own, and this run has "
            "none (model.value_network, model.objective): leave it out"
        )
    if wanted.lora is not None and (wanted.reference_folder is not None or offloads_reference):
        raise ConfigError(
            "model.reference_folder and model.offload_reference are of a reference of its own; with "
            "model.lora it is the policy without adapters: leave them out"
        )


def _folder(model_folder: str, own: str | None, option: str) -> tuple[str, str]:
    """Where a network starts from, and the option that says so."""
    return (model_folder, FOLDER) if own is None else (own, option)


def _reference(wanted: Wanted, place: Place) -> Any:
    folder, setting = _folder(wanted.model_folder, wanted.reference_folder, REFERENCE)
    return build_reference(folder, place, wanted.reference_dtype, setting)


def _value(wanted: Wanted, place: Place) -> Any:
    folder, setting = _folder(wanted.model_folder, wanted.value_folder, VALUE)
    return build_value(folder, place, seed=wanted.seed, setting=setting)
