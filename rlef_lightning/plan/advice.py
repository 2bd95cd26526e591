"""What of a plan will not fit, cannot start or looks wrong, each with the option to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rlef_lightning.plan.asked import Asked
from rlef_lightning.plan.batches import Batches, Lengths
from rlef_lightning.plan.hardware import GIB, Hardware
from rlef_lightning.plan.memory import Memory, cached_tokens, engine_weight_bytes
from rlef_lightning.plan.refusals import refusals, sharded_over
from rlef_lightning.plan.shapes import Shapes
from rlef_lightning.plan.traffic import could_run

MARGIN = 0.95
"""Of a GPU's memory may be planned for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Example: Finding(kind="wrong", text="trainer.devices ...")"""

    kind: Literal["wrong", "doubtful"]
    """wrong: the run would not start, or would stop; doubtful: it would run, and probably not as meant."""
    text: str


def findings(
    asked: Asked, shapes: Shapes, plan: Batches, bytes_of: Memory, lengths: Lengths, hardware: Hardware
) -> list[Finding]:
    """All of them; an empty list is a config without visible faults."""
    wrong = (
        *refusals(asked),
        *_ranks(asked, shapes),
        *_lengths(asked, shapes),
        *_room(asked, shapes, bytes_of, hardware),
    )
    doubtful = (
        *_doubts(asked, plan, shapes, hardware),
        *_doubts_of_engine(asked, shapes, lengths, hardware),
    )
    return [
        *(Finding(kind="wrong", text=text) for text in wrong),
        *(Finding(kind="doubtful", text=text) for text in doubtful),
    ]


def _ranks(asked: Asked, shapes: Shapes) -> Iterator[str]:
    size, per_engine = asked.ranks, asked.ranks_per_engine
    if sharded_over(asked) is None and (asked.compute_dtype is not None or asked.offload_reference):
        yield (
            "model.compute_dtype and model.offload_reference are of sharded networks; set "
            "trainer.strategy to rlef_lightning.sharded.ShardedStrategy, also for one GPU"
        )
    if size % per_engine:
        yield f"data.engine.init_args.ranks_per_engine={per_engine} does not divide {size} processes"
    if shapes.heads % per_engine:
        yield f"data.engine.init_args.ranks_per_engine={per_engine} does not divide {shapes.heads} heads"


def _lengths(asked: Asked, shapes: Shapes) -> Iterator[str]:
    if 0 < shapes.context < asked.max_context_tokens:
        yield (
            f"data.engine.init_args.max_context_tokens={asked.max_context_tokens} is beyond the model's "
            f"{shapes.context}; lower it"
        )
    if (response := asked.play.sampling.max_response_tokens) >= asked.max_context_tokens:
        yield (
            f"data.play.sampling.max_response_tokens={response} leaves no room for a prompt "
            f"in {asked.max_context_tokens} tokens; lower it, or raise "
            "data.engine.init_args.max_context_tokens"
        )
    if asked.minibatches > asked.episodes:
        yield (
            f"data.minibatches_per_epoch={asked.minibatches} is more than {asked.episodes} episodes; lower it"
        )


def _room(asked: Asked, shapes: Shapes, bytes_of: Memory, hardware: Hardware) -> Iterator[str]:
    limit = MARGIN * hardware.memory_bytes
    cure = {
        "sampling": "lower data.engine.init_args.gpu_memory_utilization, or set model.offload_optimizer or "
        "model.offload_reference",
        "scoring": "lower model.pack_tokens, or set model.offload_reference",
        "updating": "set model.recompute_activations, model.offload_optimizer or model.offload_reference, "
        "lower model.pack_tokens",
    }
    for phase, what in cure.items():
        if (total := bytes_of.total(phase)) > limit:
            yield (
                f"{phase} needs {total / GIB:.1f} GiB of {hardware.memory_bytes / GIB:.1f} GiB: {what}, or "
                "use more GPUs (trainer.num_nodes)"
            )
    if (host := sum(bytes_of.host.values())) > 0.8 * hardware.host_memory_bytes:
        yield (
            f"each GPU's part of the host holds {host / GIB:.0f} GiB of "
            f"{hardware.host_memory_bytes / GIB:.0f}; switch off model.offload_reference or "
            "model.offload_optimizer, or use more GPUs (trainer.num_nodes)"
        )
    share = float(asked.engine.get("gpu_memory_utilization", 0.5)) * hardware.memory_bytes
    if (weights := engine_weight_bytes(asked, shapes)) >= share:
        yield (
            f"an engine's weights take {weights / GIB:.1f} GiB of each GPU, and it may have "
            f"{share / GIB:.1f}: raise data.engine.init_args.ranks_per_engine or gpu_memory_utilization"
        )
    elif (tokens := cached_tokens(asked, shapes, hardware)) < asked.max_context_tokens:
        yield (
            f"an engine's cache holds {tokens:.0f} tokens, fewer than one episode of "
            f"{asked.max_context_tokens}: raise data.engine.init_args.ranks_per_engine or "
            "gpu_memory_utilization"
        )


def _doubts(asked: Asked, plan: Batches, shapes: Shapes, hardware: Hardware) -> Iterator[str]:
    if plan.sequences_per_rank < 1:
        yield (
            f"a mini-batch has {plan.sequences_per_step:g} episodes for {asked.ranks} ranks, so some do "
            "nothing in each step: lower data.minibatches_per_epoch or use fewer GPUs"
        )
    if plan.steps is not None and asked.warmup_steps >= plan.steps:
        yield f"model.warmup_steps={asked.warmup_steps}, and the run has {plan.steps} steps: lower it"
    if asked.compute_dtype != "bfloat16":
        yield "model.compute_dtype is float32, many times slower on these GPUs: set it to bfloat16"
    if asked.engine.get("dtype", "float32") == "float32":
        yield "data.engine.init_args.dtype is float32, twice the memory and traffic: set it to bfloat16"
    if asked.max_epochs is None:
        yield "trainer.max_epochs is not set: Lightning ends after 1000 epochs"
    # What is trained, in float32, and its two averages.
    whole = 12.0 * (shapes.policy.trained_weights + shapes.value.trained_weights)
    if not asked.distributed_checkpoint and whole > 0.8 * hardware.host_memory_bytes * hardware.gpus_per_node:
        yield (
            f"a checkpoint in one file brings {whole / GIB:.0f} GiB together on one host: set "
            "trainer.strategy.init_args.save_distributed_checkpoint"
        )


def _doubts_of_engine(asked: Asked, shapes: Shapes, lengths: Lengths, hardware: Hardware) -> Iterator[str]:
    held = cached_tokens(asked, shapes, hardware)
    wanted = int(asked.engine.get("max_sequences", 256)) * asked.max_context_tokens
    if 0 < held < 0.25 * wanted:
        yield (
            f"an engine's cache holds {held:.0f} tokens, a quarter or less of max_sequences x "
            f"max_context_tokens = {wanted}: sequences would be put back; lower "
            "data.engine.init_args.max_sequences"
        )
    if asked.max_in_flight < (fits := could_run(asked, shapes, lengths, hardware)):
        yield (
            f"data.pace.max_in_flight={asked.max_in_flight} is less than the {fits:.0f} sequences that an "
            "engine could sample at a time: raise it above them, so that the batch stays full while "
            "programs run"
        )
