"""This process and its process group -> vLLM's arguments for it, and the groups that vLLM leaves, freed.

vLLM computes within the processes of the trainer ("external launcher"): it starts none of its own.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from rlef_lightning.errors import EngineError

_ENVIRONMENT = {
    # The engine core runs in this process: weights are handed over as tensors, no copies by socket.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Left bound, vLLM would keep torch's threads off all cores but its own, and training would crawl.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}


def set_environment(cpu_cache_gib: int) -> None:
    """What vLLM reads when it is imported; what is set already stays."""
    for name, value in (_ENVIRONMENT | {"VLLM_CPU_KVCACHE_SPACE": str(cpu_cache_gib)}).items():
        os.environ.setdefault(name, value)


def world_size() -> int:
    """Number of processes of this run."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def rank_arguments(ranks_per_engine: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM` by which it finds its place among the ranks; none in a process alone.

    Raises:
        EngineError: the ranks cannot be divided into engines of this size, or a process alone computes on
            another GPU than the first.
    """
    size = world_size()
    if size % ranks_per_engine:
        raise EngineError(
            f"{size} processes cannot form engines of {ranks_per_engine} ranks each "
            "(data.engine.init_args.ranks_per_engine): set it to a divisor, or change trainer.devices"
        )
    if size == 1:
        _check_first_gpu()
        return {}
    arguments: dict[str, Any] = {
        "distributed_executor_backend": "external_launcher",
        "tensor_parallel_size": ranks_per_engine,
    }
    if ranks_per_engine > 1:
        # Each rank schedules by itself, so nothing may depend on when a rank's results are there.
        arguments["async_scheduling"] = False
        if not _on_gpu():
            arguments["worker_cls"] = "rlef_lightning.generation.vllm_worker.NamedCPUWorker"
    return arguments


def _check_first_gpu() -> None:
    """Without a launcher vLLM takes the first GPU that it sees, and makes it this process's."""
    import torch

    device = torch.cuda.current_device() if _on_gpu() else 0
    if device != 0:
        raise EngineError(
            f"the trainer is on cuda:{device}, and the engine of a process alone would be on cuda:0: "
            f"set CUDA_VISIBLE_DEVICES={device} and trainer.devices=1"
        )


def device_arguments(max_context_tokens: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for this machine's device; none on a GPU."""
    if _on_gpu():
        return {}
    # On a CPU a chunked prefill rewinds a seeded generator, which CPU generators cannot do; and a packed
    # output layer that is tied keeps the old weights after a reload, so it is untied there.
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, max_context_tokens),
        "hf_overrides": {"tie_word_embeddings": False},
    }


def name_run() -> None:
    """Agree with the other ranks on a name for this run's shared memory on a CPU; all ranks must call it."""
    import torch.distributed as dist

    if _on_gpu():
        return
    from rlef_lightning.generation.vllm_worker import NamedCPUWorker

    names = [uuid4().hex]
    dist.broadcast_object_list(names, src=0)
    NamedCPUWorker.run_name = names[0]


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@contextmanager
def rank_in_environment() -> Iterator[None]:
    """What vLLM reads of a launcher, for the time of its start; then the variables are as they were.

    It reads RANK and LOCAL_RANK, which Lightning's own launcher does not set on every process, and takes
    LOCAL_RANK for the number of the GPU, which need not be so (trainer.devices: [2, 3], or a scheduler that
    shows each rank one GPU). On a CPU it sets LOCAL_WORLD_SIZE to the ranks of one engine, and the executor
    would take a rank for a process alone.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        yield
        return
    before = {name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    os.environ["RANK"] = str(dist.get_rank())
    if _on_gpu():
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    else:
        os.environ.setdefault("LOCAL_RANK", str(dist.get_rank()))
    try:
        yield
    finally:
        _restore(before)


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def shut_down(llm: Any, *, owned: bool) -> None:
    """End an engine: free its memory and the process groups that vLLM made.

    Args:
        llm: A `vllm.LLM`.
        owned: The process had no process group before vLLM came. Else the trainer's stays: vLLM's own
            clean-up, which also runs whenever an engine is collected as garbage, would destroy it.
    """
    from vllm.distributed import parallel_state

    if owned:
        llm.llm_engine.engine_core.shutdown()
        parallel_state.cleanup_dist_env_and_memory()
        return
    with patch.object(parallel_state, "destroy_distributed_environment", _keep):
        llm.llm_engine.engine_core.shutdown()
        parallel_state.destroy_model_parallel()


def _keep() -> None:
    """In the place of a function that destroys what is not vLLM's."""


def release_cached_memory() -> None:
    """Hand back what torch keeps of freed GPU memory: vLLM takes its own from the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
