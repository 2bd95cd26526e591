"""Weights of a checkpoint, networks of this run -> nothing, or a CheckpointError; what a checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.lora import BASE


def drop_frozen(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A hook of `state_dict`: a checkpoint has what is trained; frozen weights stand in the model folder."""
    for name, weight in module.named_parameters(remove_duplicate=False):
        if not weight.requires_grad:
            state.pop(prefix + name, None)


def check_weights(stored: Mapping[str, Any], own: Mapping[str, Any], model_folder: str) -> None:
    """Refuse weights of another model.

    Raises:
        CheckpointError: names the first weight that is missing or has another shape.
    """
    for name, tensor in own.items():
        found = tuple(stored[name].shape) if name in stored else None
        if found != tuple(tensor.shape):
            raise CheckpointError(
                f"the checkpoint does not fit model.model_folder={model_folder!r}: weight {name} is "
                f"{found or 'missing'} there and {tuple(tensor.shape)} here"
            )


def check_adapters(stored: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> None:
    """Refuse adapters that would be read as others, or whole weights in their place.

    Raises:
        CheckpointError: the descriptions differ, but for the base: see `check_base`.
    """
    if _numbers(stored) != _numbers(own):
        raise CheckpointError(
            f"the checkpoint is of a run with model.lora {_said(stored)}, this one has {_said(own)}: resume "
            "with that (base_dtype is model.reference_dtype), or start anew"
        )


def _numbers(lora: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if lora is None else {name: value for name, value in lora.items() if name != BASE}


def _said(lora: Mapping[str, Any] | None) -> str:
    numbers = _numbers(lora)
    return "null" if numbers is None else ", ".join(f"{name}={value}" for name, value in numbers.items())


def check_values(stored: Mapping[str, Any], own: Mapping[str, Any], objective: str) -> None:
    """Refuse to go on with values from elsewhere.

    Raises:
        CheckpointError: one of the two has no values, or a network of its own for them and the other a head.
    """
    there, here = value_network(stored), value_network(own)
    if there == here:
        return
    if None in (there, here):
        raise CheckpointError(
            f"the checkpoint has {'a' if there else 'no'} value network, which model.objective={objective} "
            f"does {'not train' if there else 'train'}: resume with the objective of the run that wrote it, "
            "or start anew"
        )
    raise CheckpointError(
        f"the checkpoint is of a run with model.value_network={there}, this one has {here}: resume with "
        "that, or start anew"
    )


def value_network(names: Mapping[str, Any]) -> str | None:
    """ "own", "shared" or None, told from the names of weights."""
    if any(name.startswith("value.") for name in names):
        return "own"
    return "shared" if any(name.startswith("policy.value_head.") for name in names) else None
