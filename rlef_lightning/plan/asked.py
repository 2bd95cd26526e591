"""A parsed config -> the few values that a plan needs, each with its option's name in mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlef_lightning.checks import check_counts
from rlef_lightning.errors import ConfigError
from rlef_lightning.evaluation import Evaluation
from rlef_lightning.learning.objectives import Objective
from rlef_lightning.models.lora import Lora
from rlef_lightning.rollout import Pace, PlaySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the config says, as far as the plan looks at it."""

    model_folder: str
    devices: int
    nodes: int
    strategy: str
    data_parallel_size: int | None
    """None with ShardedStrategy, which counts the processes itself, and for Lightning's "auto"."""
    distributed_checkpoint: bool
    reload_every: int
    max_epochs: int | None
    warmup_steps: int
    pack_tokens: int
    objective: Objective
    reference_dtype: str
    compute_dtype: str | None
    recompute: bool
    offload_reference: bool
    problems_per_epoch: int
    play: PlaySettings
    minibatches: int
    max_in_flight: int
    engine: Mapping[str, Any]
    workers: int | None
    reference_folder: str | None = None
    value_folder: str | None = None
    lora: Lora | None = None
    """Adapters of the policy, which the reference is then without."""
    offload_optimizer: bool = False
    async_checkpoints: bool = False
    value_network: str = "own"
    """Or "shared": a head on the policy's trunk."""
    precision: str | int = "32-true"
    """Lightning's."""
    max_episode_s: float | None = None
    rank_timeout_s: float = 1800.0

    @property
    def values(self) -> str | None:
        """Where values come from; None: there are none."""
        return None if self.objective.value_level is None else self.value_network

    @property
    def ranks(self) -> int:
        """Processes of the run."""
        return self.devices * self.nodes

    @property
    def episodes(self) -> int:
        """Of one epoch."""
        return self.problems_per_epoch * self.play.samples_per_problem

    @property
    def ranks_per_engine(self) -> int:
        """Tensor parallel size of the engines."""
        return int(self.engine.get("ranks_per_engine", 1))

    @property
    def waits(self) -> dict[str, float]:
        """Seconds that a rank which is done waits for those that still play, by option."""
        found = {"data.rank_timeout_s": self.rank_timeout_s}
        if self.ranks_per_engine > 1:
            found["data.engine.init_args.rank_timeout_s"] = float(self.engine.get("rank_timeout_s", 1800.0))
        return found

    @property
    def max_context_tokens(self) -> int:
        """Longest episode."""
        return int(self.engine.get("max_context_tokens", 4096))


def asked_of(config: Any) -> Asked:
    """The config of `rlef fit`, as jsonargparse has parsed it.

    Raises:
        ConfigError: numbers with which `fit` could not make its settings, or no number of GPUs.
    """
    trainer, model, data = config.trainer, config.model, config.data
    strategy = trainer.strategy
    options = _get(strategy, "init_args") or {}
    check_counts(problems_per_epoch=data.problems_per_epoch, minibatches_per_epoch=data.minibatches_per_epoch)
    _built(dict[str, Evaluation], {"validation": data.validation, **(data.tests or {})})
    _built(PlaySettings, data.prediction)
    pace = _built(Pace, data.pace)
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
        objective=_built(Objective, model.objective),
        reference_dtype=model.reference_dtype,
        compute_dtype=model.compute_dtype,
        recompute=model.recompute_activations,
        offload_reference=model.offload_reference,
        problems_per_epoch=data.problems_per_epoch,
        play=_built(PlaySettings, data.play),
        minibatches=data.minibatches_per_epoch,
        max_in_flight=pace.max_in_flight,
        max_episode_s=pace.max_episode_s,
        rank_timeout_s=data.rank_timeout_s,
        engine=dict(vars(_get(data.engine, "init_args"))),
        workers=_number(_get(_get(data.executor, "init_args"), "workers")),
        reference_folder=_text(model.reference_folder),
        value_folder=_text(model.value_folder),
        lora=_built(Lora | None, model.lora),
        offload_optimizer=model.offload_optimizer,
        async_checkpoints=bool(_get(options, "async_checkpoints")),
        value_network=model.value_network,
        precision="32-true" if trainer.precision is None else trainer.precision,
    )


def _built(kind: Any, values: Any) -> Any:
    """What `fit` would make of these values, by the same library; raises ConfigError as that would."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--made", type=kind)
    return parser.instantiate(parser.parse_object({"made": values})).made


def _get(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, Mapping) else getattr(record, name, None)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


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
