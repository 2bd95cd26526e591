"""Shapes, config -> bytes of one GPU (and of its host) in each phase of an epoch, item by item.

Gradients exist while updating only; an engine that sleeps holds nothing then. While sampling the most is held
in the proof after a weight sync, when the engine has its cache and the trainer takes a pass.

Items are what FSDP2 and vLLM hold; activations are counted for a Llama-like decoder layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlef_lightning.generation.proof import COUNT, LENGTH
from rlef_lightning.learning.logprobs import chunk_rows
from rlef_lightning.plan.asked import Asked
from rlef_lightning.plan.hardware import RESERVED_BYTES, Hardware
from rlef_lightning.plan.shapes import Network, Shapes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
Items = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes by phase and item."""

    sampling: Items
    scoring: Items
    updating: Items
    host: Items
    """Of the host, for one GPU; a distributed checkpoint is written from there, while the run goes on with
    async_checkpoints."""

    def total(self, phase: str) -> float:
        """Of one phase."""
        items: Items = getattr(self, phase)
        return sum(items.values())


def memory(asked: Asked, shapes: Shapes, hardware: Hardware) -> Memory:
    """On rank 0, which has the largest shards."""
    resting, host = _resting(asked, shapes)
    compute = BYTES[asked.compute_dtype or "float32"]
    head = shapes.vocabulary * shapes.hidden
    half = compute if compute < 4 else 0  # beside what is summed up in float32
    logits = _logits(shapes, asked.pack_tokens)
    proof = {
        **resting,
        "gathered weights": _gathered(shapes.policy, compute),
        "logits of a chunk": (4 + half) * _logits(shapes, COUNT * LENGTH),
    }
    scoring = {
        **resting,
        "gathered weights": _gathered_for_scoring(asked, shapes, compute),
        "activations": float(asked.pack_tokens * kept_by_layer(shapes, compute)),
        "logits of a chunk": (8 + half) * logits,  # with the entropy's
    }
    updating = {
        **resting,
        "gradients": 4.0 * (shapes.policy.trained + shapes.value.trained),
        "gathered weights": _gathered(shapes.policy, compute),
        "gathered gradients": _gathered_gradients(shapes.policy, compute),
        "activations": float(asked.pack_tokens * _kept(asked, shapes, compute)),
        "logits of a chunk": (4 + half) * logits,
        "gradient of the output layer": float((4 + half) * head) if asked.lora is None else 0.0,
    }
    if asked.offload_optimizer:
        # The embeddings are the largest weight; with LoRA no adapter is larger than its layer's together.
        largest = shapes.policy.adapters or head
        updating["averages of a weight"] = 8.0 * largest / asked.ranks
    engine = _engine(asked, shapes, hardware)
    if asked.engine.get("sleep_level") == 1:
        host["sleeping engine's weights"] = engine["engine's weights"]
    if asked.engine.get("sleep_level") == 0:  # it stays where it is
        scoring, updating = scoring | engine, updating | engine
    return Memory(sampling=proof | engine, scoring=scoring, updating=updating, host=host)


def _resting(asked: Asked, shapes: Shapes) -> tuple[Items, Items]:
    """What lies in a GPU and in its host between passes."""
    trained = shapes.policy.trained + shapes.value.trained
    base = BYTES[asked.reference_dtype] * (shapes.policy.shard - shapes.policy.trained)
    device: Items = {
        "reserved": float(RESERVED_BYTES),
        "weights (policy, value)": 4.0 * trained + base,
    }
    host: Items = {}
    (host if asked.offload_optimizer else device)["Adam's averages"] = 8.0 * trained
    if asked.lora is None:
        place = host if asked.offload_reference else device
        place["reference"] = float(BYTES[asked.reference_dtype] * shapes.reference.shard)
    if asked.distributed_checkpoint:
        host["copy of a checkpoint"] = _copied(asked) * trained
    return device, host


def _copied(asked: Asked) -> float:
    """Bytes a trained weight: itself and its averages; those that lie in the host are copied only where they
    may change while they are written."""
    return 4.0 if asked.offload_optimizer and not asked.async_checkpoints else 12.0


def _gathered(network: Network, size: int) -> float:
    """The root's weights, the part that computes and the next one, which is fetched meanwhile."""
    return float(size * (network.root + network.layer + max(network.layer, network.embeddings)))


def _gathered_for_scoring(asked: Asked, shapes: Shapes, size: int) -> float:
    """All roots: without a backward pass a root stays whole until scoring is over. With LoRA there is one."""
    if asked.lora is not None:
        return _gathered(shapes.policy, size)
    own = size if asked.compute_dtype is not None else BYTES[asked.reference_dtype]
    networks = ((shapes.policy, size), (shapes.value, size), (shapes.reference, own))
    roots = sum(width * network.root for network, width in networks)
    return float(roots + max(_gathered(network, width) - width * network.root for network, width in networks))


def _gathered_gradients(network: Network, size: int) -> float:
    """Of the root and a part in the passes' format, and of the larger of them in float32, to be reduced.

    With LoRA of a layer's adapters.
    """
    if network.adapters:
        return float((size + 4) * network.adapters)
    part = max(network.layer, network.embeddings)
    return float(size * (network.root + part) + 4 * max(network.root, part))


def _logits(shapes: Shapes, tokens: int) -> float:
    """Numbers of one chunk."""
    return float(min(chunk_rows(shapes.vocabulary, "cuda"), tokens) * shapes.vocabulary)


def kept_by_layer(shapes: Shapes, size: int) -> int:
    """Bytes for each token that one layer keeps for its backward pass, its input left out.

    Of both norms: what comes in and the inverse deviation, in float32, what is scaled, and what comes out.
    Of attention: queries, keys and values, the output, the same laid out for the output layer (FlashAttention
    on a GPU needs it once), the normalisers in float32. Of the MLP: gate, up, the activation, their product.
    """
    norms = 2 * (4 * shapes.hidden + 4 + 2 * size * shapes.hidden)
    numbers = (3 * shapes.heads + 2 * shapes.key_value_heads) * shapes.head_size
    return norms + size * numbers + 4 * shapes.heads + size * 4 * shapes.intermediate


def kept_besides(shapes: Shapes, size: int) -> int:
    """The same of what comes before and after the layers: ids, rotary cosines and sines, the last norm."""
    return 8 + 2 * size * shapes.head_size + (4 + size) * shapes.hidden + 4


def _kept(asked: Asked, shapes: Shapes, size: int) -> int:
    """Most bytes for each token that are kept at a time. Computed again, a layer keeps its input only."""
    layer, besides = kept_by_layer(shapes, size), kept_besides(shapes, size)
    if asked.recompute:
        return shapes.layers * size * shapes.hidden + besides + layer
    return shapes.layers * layer + besides


def _engine(asked: Asked, shapes: Shapes, hardware: Hardware) -> Items:
    share = float(asked.engine.get("gpu_memory_utilization", 0.5)) * hardware.memory_bytes
    weights = engine_weight_bytes(asked, shapes)
    return {"engine's weights": weights, "engine's cache and work space": max(0.0, share - weights)}


def engine_weight_bytes(asked: Asked, shapes: Shapes) -> float:
    """Of one rank's part of an engine."""
    return shapes.policy.engine_weights * BYTES[asked.engine.get("dtype", "float32")] / asked.ranks_per_engine


def cache_bytes_per_token(asked: Asked, shapes: Shapes) -> float:
    """Keys and values of one token, on one rank; heads are divided, but no rank has less than one."""
    heads = max(1.0, shapes.key_value_heads / asked.ranks_per_engine)
    return 2 * shapes.layers * heads * shapes.head_size * BYTES[asked.engine.get("dtype", "float32")]


def cached_tokens(asked: Asked, shapes: Shapes, hardware: Hardware) -> float:
    """Tokens that the cache of one engine holds, a tenth of its room left for the work space."""
    room = 0.9 * _engine(asked, shapes, hardware)["engine's cache and work space"]
    return room / cache_bytes_per_token(asked, shapes)
