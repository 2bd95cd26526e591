"""Shapes, batches -> bytes that each GPU moves, and seconds of each phase from stated figures.

Ring collectives: a gathering of B bytes over n ranks brings B (n - 1) / n to each, a sum twice that.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlef_lightning.plan.asked import Asked
from rlef_lightning.plan.batches import Batches, Lengths
from rlef_lightning.plan.hardware import COMPUTE_SHARE, MEMORY_SHARE, NETWORK_SHARE, Hardware
from rlef_lightning.plan.memory import BYTES, cache_bytes_per_token, cached_tokens, engine_weight_bytes
from rlef_lightning.plan.shapes import Shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that one GPU receives."""

    gather_per_step: float
    """All-gathers of an optimizer step: each network forwards and backwards, for every pack."""
    reduce_per_step: float
    """Reduce-scatters of gradients, for every pack."""
    gather_for_scoring: float
    """All-gathers of an epoch's scoring: three networks, forwards, for every pack."""
    sync_per_epoch: float
    """All-gather of the policy for the engines: in float32, with LoRA in the base's format."""
    engine_per_epoch: float
    """All-reduces and all-gathers of the ranks of one tensor-parallel engine while it samples; 0 where each
    rank has an engine of its own."""


def traffic(asked: Asked, shapes: Shapes, plan: Batches, lengths: Lengths) -> Traffic:
    """Of rank 0."""
    part = (asked.ranks - 1) / asked.ranks
    compute = BYTES[asked.compute_dtype or "float32"]
    trained = shapes.policy.weights + shapes.value.weights
    packs = plan.packs_per_rank
    reference = BYTES[asked.reference_dtype] if asked.lora is None else compute
    scored = compute * trained + reference * shapes.reference.weights
    moved = shapes.policy.trained_weights + shapes.value.trained_weights
    base = 4 if asked.lora is None else BYTES[asked.reference_dtype]
    return Traffic(
        gather_per_step=2.0 * packs * compute * trained * part,
        reduce_per_step=4.0 * packs * moved * part,
        gather_for_scoring=plan.packs_for_scoring * scored * part,
        sync_per_epoch=base * shapes.policy.weights * part,
        engine_per_epoch=_within_engine(asked, shapes, lengths),
    )


def _within_engine(asked: Asked, shapes: Shapes, lengths: Lengths) -> float:
    """For each token, prompts included, two sums of hidden states a layer (after attention and the MLP) and
    one of the embeddings; and the logits of each token that is sampled, gathered."""
    ranks = asked.ranks_per_engine
    size, part = BYTES[asked.engine.get("dtype", "float32")], (ranks - 1) / ranks
    episodes = asked.episodes / (asked.ranks / ranks)
    sums = 2 * part * (2 * shapes.layers + 1) * shapes.hidden * size * lengths.sequence
    return episodes * (sums + part * shapes.vocabulary * size * lengths.sampled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """Of one epoch; estimates from stated figures, not measurements."""

    sampling: float
    scoring: float
    updating: float
    sync: float

    @property
    def epoch(self) -> float:
        """The phases one after the other."""
        return self.sampling + self.scoring + self.updating + self.sync


def seconds(
    asked: Asked, shapes: Shapes, plan: Batches, moved: Traffic, lengths: Lengths, hardware: Hardware
) -> Seconds:
    """Products and messages overlap, so the slower of the two counts."""
    wire = _bytes_per_s(asked, hardware)
    peak = hardware.flops_per_s if asked.compute_dtype == "bfloat16" else hardware.float32_flops_per_s
    compute = COMPUTE_SHARE * peak * asked.ranks
    tokens = asked.episodes * lengths.sequence
    trained = shapes.policy.weights + shapes.value.weights
    forward = 2.0 * tokens * (trained + shapes.reference.weights)
    # Of frozen weights there is a gradient with respect to what goes in only.
    frozen = 0 if asked.lora is None else shapes.policy.weights
    both = ((8.0 if asked.recompute else 6.0) * trained - 2.0 * frozen) * tokens
    steps = moved.gather_per_step + moved.reduce_per_step
    return Seconds(
        # Within a step of an engine nothing goes on while its ranks exchange.
        sampling=_sampling(asked, shapes, lengths, hardware)
        + moved.engine_per_epoch / _engine_bytes_per_s(asked, hardware),
        scoring=max(forward / compute, moved.gather_for_scoring / wire),
        updating=max(both / compute, asked.minibatches * steps / wire),
        sync=moved.sync_per_epoch / wire,
    )


def _bytes_per_s(asked: Asked, hardware: Hardware) -> float:
    """The slowest link of a ring over all ranks."""
    full = hardware.link_bytes_per_s if asked.nodes == 1 else hardware.network_bytes_per_s
    return NETWORK_SHARE * full


def _engine_bytes_per_s(asked: Asked, hardware: Hardware) -> float:
    """Neighbouring ranks form an engine: those of one node, if it is no larger."""
    within = asked.ranks_per_engine <= hardware.gpus_per_node
    return NETWORK_SHARE * (hardware.link_bytes_per_s if within else hardware.network_bytes_per_s)


def at_once(asked: Asked, shapes: Shapes, lengths: Lengths, hardware: Hardware) -> float:
    """Sequences that one engine samples at the same time."""
    return min(asked.max_in_flight, could_run(asked, shapes, lengths, hardware))


def could_run(asked: Asked, shapes: Shapes, lengths: Lengths, hardware: Hardware) -> float:
    """The same if all episodes were handed out at the start: its batch, its cache, its share of an epoch."""
    engines = asked.ranks / asked.ranks_per_engine
    room = cached_tokens(asked, shapes, hardware) / lengths.sequence
    return max(1.0, min(room, int(asked.engine.get("max_sequences", 256)), asked.episodes / engines))


def _sampling(asked: Asked, shapes: Shapes, lengths: Lengths, hardware: Hardware) -> float:
    """Each step reads the weights and the cache of the running sequences once: memory decides."""
    running = at_once(asked, shapes, lengths, hardware)
    read = engine_weight_bytes(asked, shapes)
    read += running * 0.5 * lengths.sequence * cache_bytes_per_token(asked, shapes)
    step_s = read / (MEMORY_SHARE * hardware.memory_bytes_per_s)
    engines = asked.ranks / asked.ranks_per_engine
    return asked.episodes * lengths.sampled / (engines * running) * step_s
