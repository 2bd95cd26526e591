"""One rank on one core against two ranks on two, over the same mini-batches.

Both worlds stay alive and take turns, so that each round compares neighbours in time.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlef_lightning.learning.minibatches import make_minibatches
from rlef_lightning.types import TrainingSample
from tools.bench.updates import loose_module

WAIT_S = 600.0
"""The other world takes no longer for its turn."""


def tokens_per_s(
    folder: str, samples: Sequence[TrainingSample], minibatches: int, pack_tokens: int, rounds: int, to: Path
) -> list[dict[str, float]]:
    """Of each round: `one_rank` and `two_ranks`, tokens over seconds; `..._cpu` by CPU time.

    Args:
        folder: Of the model.
        samples: Of an epoch.
        minibatches: Optimizer steps of a round.
        pack_tokens: Of a pack.
        rounds: How often.
        to: An empty folder for what the processes find.
    """
    import torch.multiprocessing as mp

    barrier = mp.get_context("spawn").Barrier(3, timeout=WAIT_S)
    ports = [_free_port(), _free_port()]
    work = (folder, samples, minibatches, pack_tokens, rounds)
    mp.spawn(_process, args=(barrier, ports, sorted(os.sched_getaffinity(0)), to, work), nprocs=3)
    tokens = sum(len(sample.token_ids) for sample in samples)
    one, first, second = (json.loads((to / f"{index}.json").read_text()) for index in range(3))
    return [
        {
            f"{name}{suffix}": tokens / max(one[place] for one in ranks)
            for name, ranks in (("one_rank", [alone]), ("two_ranks", pair))
            for place, suffix in enumerate(("", "_cpu"))
        }
        for alone, *pair in zip(one, first, second, strict=True)
    ]


def _process(index: int, barrier: Any, ports: list[int], cores: list[int], to: Path, work: Any) -> None:
    """0 is the world of one, 1 and 2 are the ranks of the other."""
    world = 1 if index == 0 else 2
    rank = 0 if index == 0 else index - 1
    os.sched_setaffinity(0, {cores[rank]})
    module, steps, rounds = _started(rank, world, ports[world - 1], work)
    found = []
    for number in range(rounds + 1):
        if world == 2:
            barrier.wait()
        seconds = _seconds(module, steps if number else steps[:1])  # the first time is to warm up
        found += [seconds] if number else []
        if world == 1:
            barrier.wait()
        barrier.wait()
    (to / f"{index}.json").write_text(json.dumps(found))


def _started(rank: int, world: int, port: int, work: Any) -> tuple[Any, Any, int]:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    folder, samples, minibatches, pack_tokens, rounds = work
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    module = loose_module(folder, mesh=mesh, pack_tokens=pack_tokens)
    steps = make_minibatches(samples, minibatches, pack_tokens, 0, rank=rank, ranks=world)
    return module, steps, rounds


def _seconds(module: Any, steps: Sequence[Any]) -> tuple[float, float]:
    """On the wall, and of this process's CPU time."""
    began, cpu_began = time.perf_counter(), time.process_time()
    for step in steps:
        module.training_step(step, 0)
    return time.perf_counter() - began, time.process_time() - cpu_began


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
