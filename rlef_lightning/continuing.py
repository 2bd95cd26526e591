"""A run, a checkpoint -> what decides the run, saved; or a CheckpointError where another run would go on.

Every option of the module and the data module counts, but for those named in `LEFT_OUT`. Of folders and
problems the content counts, not the path. Reads no files.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.lora import ADAPTERS_OF, check_base, described
from rlef_lightning.resuming import check_adapters, check_values, check_weights
from rlef_lightning.shards import check_stored, settings_of

DECIDED_BY = "decided_by"
"""The entry of a checkpoint with what decided its run, by option."""

LEFT_OUT: Mapping[str, frozenset[str]] = {
    "model": frozenset(
        {
            "model_folder", "reference_folder",  # by their weights: REFERENCE, and in ADAPTERS_OF
            "value_folder", "seed",  # where values and adapters began; they go on from the checkpoint
            "lora",  # in ADAPTERS_OF, also where nothing is trained
            "pack_tokens", "recompute_activations", "offload_reference", "offload_optimizer",  # memory alone
            "allow_changes",
        }
    ),
    "data": frozenset(
        {
            "problems",  # by their ids: PROBLEMS
            "engine", "executor", "pace", "store",  # how fast, and where; the store compares what it must
            "validation", "tests", "prediction",  # nothing is trained on them
            "model_folder", "pack_tokens",  # those of the model
            "parity_tolerance", "rank_timeout_s",  # when a run ends
        }
    ),
}  # fmt: skip
"""Options that a resumed run may change, by what has them."""
REFERENCE, PROBLEMS = "model.reference_folder", "data.problems"
_MEANT = {
    REFERENCE: f"{REFERENCE} (null: model.model_folder), fingerprint of its weights",
    PROBLEMS: f"{PROBLEMS}, fingerprint of the training problems' ids",
}
_LONGEST = 80


def save_run(module: Any, checkpoint: dict[str, Any]) -> None:
    """Say in the checkpoint what decides the run, and what its adapters are of."""
    checkpoint[DECIDED_BY] = decisions(module)
    if module.lora is not None:
        checkpoint[ADAPTERS_OF] = _adapters(module)


def check_loaded(module: Any, checkpoint: Mapping[str, Any], *, trains: bool) -> None:
    """Refuse a checkpoint of other networks or adapters, or, to go on training, of another run.

    Raises:
        CheckpointError: says what differs, and which option decides it.
    """
    stored, own = checkpoint.get(ADAPTERS_OF), _adapters(module)
    check_adapters(stored, own)
    if stored is not None and own is not None:
        check_base(stored, own, f"model.model_folder={module.model_folder!r}")
    optimizers = [module.configure_optimizers()["optimizer"]] if trains else []
    if trains:
        check_run(module, checkpoint, settings_of(optimizers), tells=True)
    if "state_dict" not in checkpoint:
        return  # the strategy has put sharded weights in place by itself, and compared shapes
    weights = module.state_dict()
    if trains:
        check_values(checkpoint["state_dict"], weights, type(module.objective).__name__)
        check_stored(checkpoint.get("optimizer_states", ()), optimizers)
    check_weights(checkpoint["state_dict"], weights, module.model_folder)


def _adapters(module: Any) -> dict[str, Any] | None:
    if module.lora is None:
        return None
    return described(module.lora, module.reference_dtype, module.reference_fingerprint)


def decisions(module: Any) -> dict[str, Any]:
    """What decides the run, by option, in plain values that compare equal after they were saved."""
    found = _options("model", module)
    found["model.objective.value_level"] = module.objective.value_level
    found[REFERENCE] = module.reference_fingerprint
    data = getattr(module._trainer, "datamodule", None)
    if data is not None:
        found |= _options("data", data)
        found[PROBLEMS] = _ids(getattr(data, "splits", {}).get("train", ()))
    return found


def _options(name: str, part: object) -> dict[str, Any]:
    named = inspect.signature(type(part).__init__).parameters.keys() - LEFT_OUT[name]
    found: dict[str, Any] = {}
    for option in sorted(option for option in named if hasattr(part, option)):
        found |= _flat(f"{name}.{option}", getattr(part, option))
    return found


def _flat(option: str, value: object) -> dict[str, Any]:
    """A data class as its class and its fields, each by its own name."""
    if not is_dataclass(value) or isinstance(value, type):
        return {option: _plain(value)}
    found: dict[str, Any] = {option: type(value).__name__}
    for field in fields(value):
        found |= _flat(f"{option}.{field.name}", getattr(value, field.name))
    return found


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(kept) for name, kept in value.items()}
    return [_plain(kept) for kept in value] if isinstance(value, (list, tuple)) else repr(value)


def _ids(problems: Collection[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for problem in problems:
        digest.update(f"{problem.id}\n".encode())
    return digest.hexdigest()


def check_run(module: Any, checkpoint: Mapping[str, Any], fixed: Collection[str], *, tells: bool) -> None:
    """Refuse to go on with another run's checkpoint, or say in the log what changes where that is allowed.

    Args:
        module: Of the run that goes on.
        checkpoint: Or what is in it besides weights.
        fixed: Options that come back with the optimizer's state, so that `allow_changes` cannot change them.
        tells: False: nothing is logged.

    Raises:
        CheckpointError: names every option that differs, with both values.
    """
    stored = checkpoint.get(DECIDED_BY)
    if stored is None:
        if tells:
            _warn(
                "the checkpoint does not say what decided its run (it is of an older version): objective, "
                "reference and batches are taken from the options, and not compared"
            )
        return
    own = decisions(module)
    changed = [option for option in own if option in stored and stored[option] != own[option]]
    if not changed:
        return
    said = "; ".join(
        f"{_MEANT.get(option, option)}: {_short(stored[option])} in the checkpoint, {_short(own[option])} now"
        for option in changed
    )
    if not module.allow_changes:
        back = sorted(set(changed) & set(fixed))
        but = f" ({', '.join(back)} cannot change: the optimizer's state brings it back)" if back else ""
        raise CheckpointError(
            f"the checkpoint is of another run than this one (--ckpt_path): {said}. Resume with the options "
            "of the run that wrote it, start anew without --ckpt_path, or set model.allow_changes=true to go "
            f"on with those of now{but}"
        )
    if tells:
        _warn(f"model.allow_changes: the run goes on as another one: {said}")


def _warn(message: str) -> None:
    logging.getLogger(__name__).warning("%s", message)


def _short(value: object) -> str:
    """Long texts by their head and a digest, so that two that differ look different."""
    text = repr(value)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]}... ({hashlib.blake2b(text.encode(), digest_size=4).hexdigest()})"
