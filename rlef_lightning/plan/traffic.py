"""Shapes, batches -> bytes that each GPU moves, and seconds of each phase from stated figures.

Ring collectives: a gathering of B bytes over n ranks brings B (n - 1) / n to each, so does a sum of which
each keeps a part; a sum that all keep brings twice that. FSDP2 fills all shards up to the size of rank 0's.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlef_lightning.plan.asked import Asked
from rlef_lightning.plan.batches import Batches, Lengths
from rlef_lightning.plan.hardware import COMPUTE_SHARE, MEMORY_SHARE, NETWORK_SHARE, Hardware
from rlef_lightning.plan.memory import BYTES, cache_bytes_per_token, cached_tokens, engine_weight_bytes
from rlef_lightning.plan.shapes import Network, Shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that one GPU receives."""

    gather_per_step: float
    """All-gathers of an optimizer step: for every pack each part of the networks forwards and backwards, and
    the root, which stays whole in between, once."""
    reduce_per_step: float
    """Reduce-scatters of gradients, for every pack."""
    gather_for_scoring: float
    """All-gathers of an epoch's scoring: three networks, forwards, for every pack; their roots once. With
    LoRA the policy twice in the place of policy and reference."""
    sync_per_epoch: float
    """All-gather of the policy for the engines: in float32, with LoRA in the base's format."""
    engine_per_epoch: float
    """All-reduces and all-gathers of the ranks of one tensor-parallel engine while it samples; 0 where each
    rank has an engine of its own."""


def traffic(asked: Asked, shapes: Shapes, plan: Batches, lengths: Lengths) -> Traffic:
    """Of rank 0."""
    others = asked.ranks - 1
    policy, value = _sent(asked, shapes.policy), _sent(asked, shapes.value)
    moved = shapes.policy.trained + shapes.value.trained
    base = 4 if asked.lora is None else BYTES[asked.reference_dtype]
    return Traffic(
        gather_per_step=float(others * plan.packs_per_rank * (policy.updating + value.updating)),
        reduce_per_step=float(others * plan.packs_per_rank * 4 * moved),
        gather_for_scoring=float(others * _for_scoring(asked, shapes, plan.packs_for_scoring)),
        sync_per_epoch=base * shapes.policy.weights * others / asked.ranks,
        engine_per_epoch=_within_engine(asked, shapes, lengths),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """Bytes of a network that each rank sends to each other one in a forward pass."""

    parts: int
    """Layers and embeddings."""
    root: int

    @property
    def updating(self) -> int:
        """Of a pack, forwards and backwards. Of frozen embeddings, too: FSDP2 fetches them ahead."""
        return 2 * self.parts + self.root


def _sent(asked: Asked, network: Network) -> _Sent:
    """Of policy or value network: frozen weights in the base's format, unless the passes have their own."""
    compute = asked.compute_dtype
    frozen, trained = BYTES[compute or asked.reference_dtype], BYTES[compute or "float32"]

    def size(shard: int, of_it: int) -> int:
        return frozen * (shard - of_it) + trained * of_it

    root = size(network.root_shard, network.root_trained)
    return _Sent(parts=size(network.shard, network.trained) - root, root=root)


def _for_scoring(asked: Asked, shapes: Shapes, packs: int) -> int:
    """Without a backward pass roots stay whole until the last pack."""
    policy, value = _sent(asked, shapes.policy), _sent(asked, shapes.value)
    trained = packs * (policy.parts + value.parts) + policy.root + value.root
    if asked.lora is not None:
        return trained + packs * policy.parts  # once more, without adapters, which are gathered all the same
    size = BYTES[asked.compute_dtype or asked.reference_dtype]
    reference = shapes.reference
    return trained + size * (packs * (reference.shard - reference.root_shard) + reference.root_shard)


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
