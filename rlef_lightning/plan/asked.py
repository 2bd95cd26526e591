"""A parsed config -> the few values that a plan needs, each with its option's name in mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlef_lightning.errors import ConfigError
from rlef_lightning.models.lora import Lora

WITHOUT_VALUE = {"GRPO", "RLOO"}
"""Objectives that compare episodes of one problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the config says, as far as the plan looks at it."""

    model_folder: str
    devices: int
    nodes: int
    strategy: str
    data_parallel_size: int | None
    """None with ShardedStrategy, which counts the processes itself."""
    distributed_checkpoint: bool
    reload_every: int
    max_epochs: int | None
    warmup_steps: int
    pack_tokens: int
    trains_value: bool
    """False: the objective has no values."""
    reference_dtype: str
    compute_dtype: str | None
    recompute: bool
    offload_reference: bool
    problems_per_epoch: int
    samples_per_problem: int
    turn_limit: int
    max_response_tokens: int
    minibatches: int
    max_in_flight: int
    engine: Mapping[str, Any]
    workers: int | None
    reference_folder: str | None = None
    value_folder: str | None = None
    lora: Lora | None = None
    """Adapters of the policy, which the reference is then without."""
    offload_optimizer: bool = False
    value_network: str = "own"
    """Or "shared": a head on the policy's trunk."""

    @property
    def values(self) -> str | None:
        """Where values come from; None: there are none."""
        return self.value_network if self.trains_value else None

    @property
    def ranks(self) -> int:
        """Processes of the run."""
        return self.devices * self.nodes

    @property
    def episodes(self) -> int:
        """Of one epoch."""
        return self.problems_per_epoch * self.samples_per_problem

    @property
    def ranks_per_engine(self) -> int:
        """Tensor parallel size of the engines."""
        return int(self.engine.get("ranks_per_engine", 1))

    @property
    def max_context_tokens(self) -> int:
        """Longest episode."""
        return int(self.engine.get("max_context_tokens", 4096))


def asked_of(config: Any) -> Asked:
    """The config of `rlef fit`, as jsonargparse has parsed it. Raises ConfigError for what it cannot read."""
    trainer, model, data = config.trainer, config.model, config.data
    strategy = trainer.strategy
    options = _get(strategy, "init_args") or {}
    play = data.play
    return Asked(
        model_folder=str(model.model_folder),
        devices=_devices(trainer.devices),
        nodes=int(trainer.num_nodes),
        strategy=str(_get(strategy, "class_path") or strategy).rpartition(".")[2],
        data_parallel_size=_number(_get(options, "data_parallel_size")),
        distributed_checkpoint=bool(_get(options, "save_distributed_checkpoint")),
        reload_every=int(trainer.reload_dataloaders_every_n_epochs),
        max_epochs=trainer.max_epochs,
        warmup_steps=model.warmup_steps,
        pack_tokens=model.pack_tokens,
        trains_value=_class_name(model.objective) not in WITHOUT_VALUE,
        reference_dtype=model.reference_dtype,
        compute_dtype=model.compute_dtype,
        recompute=model.recompute_activations,
        offload_reference=model.offload_reference,
        problems_per_epoch=data.problems_per_epoch,
        samples_per_problem=_get(play, "samples_per_problem"),
        turn_limit=_get(play, "turn_limit"),
        max_response_tokens=_get(_get(play, "sampling"), "max_response_tokens"),
        minibatches=data.minibatches_per_epoch,
        max_in_flight=_get(data.pace, "max_in_flight"),
        engine=dict(vars(_get(data.engine, "init_args"))),
        workers=_number(_get(_get(data.executor, "init_args"), "workers")),
        reference_folder=_text(model.reference_folder),
        value_folder=_text(model.value_folder),
        lora=_lora(model.lora),
        offload_optimizer=model.offload_optimizer,
        value_network=model.value_network,
    )


def _class_name(value: Any) -> str:
    """Of a class by class_path; empty for plain values."""
    return str(_get(value, "class_path") or "").rpartition(".")[2]


def _get(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, Mapping) else getattr(record, name, None)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _lora(value: Any) -> Lora | None:
    if value is None or isinstance(value, Lora):
        return value
    targets = _get(value, "target_modules")
    return Lora(
        rank=_get(value, "rank"),
        alpha=_get(value, "alpha"),
        dropout=_get(value, "dropout"),
        target_modules=None if targets is None else tuple(targets),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _devices(value: Any) -> int:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value)
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise ConfigError(f"trainer.devices is {value!r}: a plan needs the number of GPUs of each node")
    return count
