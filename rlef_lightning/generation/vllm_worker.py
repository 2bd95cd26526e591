"""vLLM's worker on a CPU, with shared memory under a name of this run's own.

The ranks of a tensor-parallel engine on a CPU exchange numbers through shared memory. Under an external
launcher vLLM gives it the same name in every run: two runs on one machine would collide, and a run that was
killed would keep all later ones from starting. vLLM finds this class by its name.
"""

from __future__ import annotations

from typing import ClassVar

from vllm.v1.worker.cpu_worker import CPUWorker


class NamedCPUWorker(CPUWorker):
    """A CPUWorker whose `run_name` is part of the shared memory's name."""

    run_name: ClassVar[str] = ""
    """The same on all ranks of the run, and in no other run."""

    def init_device(self) -> None:
        """As vLLM's; what follows the last colon of the init method names the shared memory."""
        method: str = self.distributed_init_method  # type: ignore[has-type]
        self.distributed_init_method = f"{method}:{self.run_name}"
        super().init_device()
