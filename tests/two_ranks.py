"""Two real processes with a gloo group, as Lightning's launcher or torchrun would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

COLLECTIVE_S = 60.0
"""A collective that takes so long hangs."""


def on_two_ranks(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in both; an exception in either ends both and is raised here."""
    on_ranks(2, work, *arguments)


def on_ranks(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """The same with another number of processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_start, args=(count, work, port, arguments), nprocs=count)


def _start(rank: int, count: int, work: Callable[..., None], port: int, arguments: tuple[Any, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    limit = timedelta(seconds=COLLECTIVE_S)
    dist.init_process_group("gloo", rank=rank, world_size=count, timeout=limit)
    work(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of torch's own at times abort a process that ends in the usual way
