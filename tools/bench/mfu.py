"""Sharded bfloat16 updates of a Llama with random weights: operations per second, and memory.

Floating-point operations that are counted, for policy and value network: 6 for each weight of the layers and
each token; 6 for each weight of the output layer and each response token, the only places where it is used;
and of causal attention 6 x length^2 x heads x head size for each layer and sequence. Logits computed once
more, norms, activations and the optimizer are not counted, but their time is.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from rlef_lightning.learning.minibatches import MiniBatch, make_minibatches
from rlef_lightning.learning.objectives import PPO
from rlef_lightning.plan.asked import Asked
from rlef_lightning.plan.hardware import HARDWARE, RESERVED_BYTES, Hardware
from rlef_lightning.plan.memory import memory
from rlef_lightning.plan.shapes import Shapes, shapes
from rlef_lightning.rollout import PlaySettings
from rlef_lightning.types import TrainingSample
from tools.bench.parts import SHAPES, endless_folder
from tools.bench.updates import contest_turns, loose_module, sample

GPU_NAMES = {"A100": "a100-80gb", "H100": "h100-80gb", "H200": "h200-141gb"}
SCALES = {"tiny": 0.25, "llama-small": 0.25, "llama-1b": 1.0}
"""Of the dialogues' lengths."""


def measure(shape: str, device: str, pack_tokens: int, packs: int, steps: int) -> dict[str, Any]:
    """Operations per second of whole optimizer steps, their share of the GPU's peak, and peak memory.

    Args:
        shape: Of `parts.SHAPES`.
        device: "cuda", or "cpu" to try the same code; then mfu and memory are None.
        pack_tokens: Of a pack.
        packs: Of an optimizer step, about.
        steps: Timed ones; one more to warm up.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="rlef-mfu-") as name:
        folder = random_folder(Path(name), shape, device)
        sizes = shapes(folder, 1)
        samples = _samples(pack_tokens * packs, sizes.vocabulary, SCALES[shape], pack_tokens)
        (batch,) = make_minibatches(samples, 1, pack_tokens, 0)
        with one_rank(device) as mesh:
            seconds, peak = _timed(folder, mesh, device, batch, pack_tokens, steps)
    operations = count(sizes, samples)
    gpu = _hardware(device)
    planned = planned_bytes(folder, sizes, pack_tokens)
    return {
        "mfu": None if gpu is None else operations / seconds / gpu.flops_per_s,
        "mfu_peak_flops": None if gpu is None else gpu.flops_per_s,
        "mfu_tflops_per_step": operations / 1e12,
        "mfu_step_s": seconds,
        "mfu_tokens_per_s": sum(len(one.token_ids) for one in samples) / seconds,
        "planned_gib": planned / 2**30,
        "peak_gib": None if peak is None else peak / 2**30,
        "peak_over_plan": None if peak is None else peak / planned,
    }


def count(sizes: Shapes, samples: Sequence[TrainingSample]) -> float:
    """Floating-point operations of one update of both networks; see the top of this file."""
    tokens = sum(len(one.token_ids) for one in samples)
    responses = sum(one.response_tokens for one in samples)
    layers = 2.0 * sizes.layers * sizes.policy.layer
    head = float(sizes.vocabulary * sizes.hidden)
    squares = sum(len(one.token_ids) ** 2 for one in samples)
    attention = 2.0 * squares * sizes.layers * sizes.heads * sizes.head_size
    return 6.0 * (layers * tokens + head * responses + attention)


def planned_bytes(folder: str, sizes: Shapes, pack_tokens: int) -> float:
    """What `rlef plan` says of updating, without engine, reference, and what it reserves for CUDA itself."""
    held = memory(_asked(folder, pack_tokens), sizes, HARDWARE["h200-141gb"])
    return held.total("updating") - held.updating["reference"] - RESERVED_BYTES


def random_folder(folder: Path, shape: str, device: str) -> str:
    """A model folder of the shape, with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path = endless_folder(folder, shape)
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    with torch.device(device):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(path)
    return path


@contextmanager
def one_rank(device: str) -> Iterator[Any]:
    """A process group of this process alone, and its mesh as Lightning's strategy makes it."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    if device == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=0, world_size=1)
    try:
        yield init_device_mesh(device, (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    finally:
        dist.destroy_process_group()


def _timed(
    folder: str, mesh: Any, device: str, batch: MiniBatch, pack_tokens: int, steps: int
) -> tuple[float, int | None]:
    """Median seconds of an optimizer step, and the most bytes that torch had taken on the GPU."""
    import torch

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    module = loose_module(folder, mesh=mesh, compute_dtype="bfloat16", pack_tokens=pack_tokens)
    batch = batch.to(device)
    found = []
    for _ in range(steps + 1):
        finish()
        began = time.perf_counter()
        module.training_step(batch, 0)
        finish()
        found.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return statistics.median(found[1:]), peak


def _samples(tokens: int, vocabulary: int, scale: float, longest: int) -> list[TrainingSample]:
    draw = Random(0)
    samples: list[TrainingSample] = []
    while tokens > 0:
        one = sample(contest_turns(draw, scale), vocabulary, draw)
        if len(one.token_ids) <= longest:
            samples.append(one)
            tokens -= len(one.token_ids)
    return samples


def _hardware(device: str) -> Hardware | None:
    """Of this machine's GPU; None for one whose peak is not known here."""
    import torch

    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((HARDWARE[key] for word, key in GPU_NAMES.items() if word in name), None)


def _asked(folder: str, pack_tokens: int) -> Asked:
    """The config of `_timed`, as a plan sees it."""
    return Asked(
        model_folder=folder, devices=1, nodes=1, strategy="ShardedStrategy", data_parallel_size=None,
        distributed_checkpoint=True, reload_every=1, max_epochs=1, warmup_steps=1, pack_tokens=pack_tokens,
        objective=PPO(), reference_dtype="bfloat16", compute_dtype="bfloat16", recompute=False,
        offload_reference=False, problems_per_epoch=1, play=PlaySettings(), minibatches=1, max_in_flight=1,
        engine={"sleep_level": 2}, workers=1,
    )  # fmt: skip


def shape_names() -> tuple[str, ...]:
    """Which can be asked for."""
    return tuple(SHAPES)


if __name__ == "__main__":
    print(json.dumps(measure("tiny", "cpu", 512, 2, 1)))
