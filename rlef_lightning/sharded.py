"""Lightning's strategy for weights sharded by FSDP2, with checkpoints that are whole or not there.

Checkpoints are written by all ranks, each its own shards, and can be read by any number of them. Adds nothing
to how networks are sharded: see models/sharding.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint import CheckpointException, save
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.optim import Optimizer

from rlef_lightning.continuing import check_run
from rlef_lightning.errors import CheckpointError, ConfigError
from rlef_lightning.models.agreeing import together
from rlef_lightning.placing import onto_disk, remove, replace
from rlef_lightning.shards import (
    REST,
    check_fits,
    check_settings,
    is_checkpoint,
    rest_of,
    settings_of,
    unreadable,
)
from rlef_lightning.writing import Writing, unwritten


class ShardedStrategy(ModelParallelStrategy):
    """All processes of the run share the weights; a checkpoint is a folder of shards.

    Args:
        save_distributed_checkpoint: Each rank writes its own shards. False: rank 0 gathers everything and
            writes one file, which needs a host that holds it all, and is simpler to move.
        process_group_backend: null: nccl on GPUs, gloo on CPUs.
        timeout_s: How long a collective waits for a rank before the run ends.
        async_checkpoints: Copy the shards to the host's memory, and write them while the run goes on. A
            checkpoint takes its place when the next one begins, at the latest, or when the run ends.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout_s: float = 1800.0,
        async_checkpoints: bool = False,
    ) -> None:
        if async_checkpoints and not save_distributed_checkpoint:
            raise ConfigError(
                "trainer.strategy: async_checkpoints=true needs save_distributed_checkpoint=true: one file "
                "for all ranks is not written aside"
            )
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timedelta(seconds=timeout_s),
        )
        self._async = async_checkpoints
        self._writing: Writing | None = None
        self._writers: dist.ProcessGroup | None = None

    def setup_environment(self) -> None:
        """Also counts the processes, over all of which the weights are sharded."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write beside the target, and put it in its place when every rank has written.

        Raises:
            CheckpointError: it could not be written; what was there before is kept.
        """
        self.finish()
        target = Path(self.broadcast(filepath))
        part = target.with_name(f".{target.name}.part")
        state = self._sharded_part(checkpoint)
        self._by_first(partial(self._begin, checkpoint, part), target)
        if self._async:
            if self._writers is None:
                self._writers = dist.new_group(backend="gloo", timeout=self._timeout)
            self._writing = self._written_aside(state, part, target)
            return
        if state:
            try:
                save(state, checkpoint_id=part)
            except (Exception, CheckpointException) as error:  # many kinds, and one that is no Exception
                raise unwritten(target, error) from error
        self._by_first(partial(replace, part, target), target)

    def _written_aside(self, state: dict[str, Any], part: Path, target: Path) -> Writing:
        """A rank whose host has no memory for the copy fails alone, and all end with its reason."""
        writers = self._writers
        assert writers is not None
        writings: list[Writing] = []

        def own_part() -> None:
            try:
                writings.append(Writing(state, part, target, writers))
            except (Exception, CheckpointException) as error:  # many kinds, and one that is no Exception
                raise unwritten(target, error) from error

        together(own_part)
        return writings[0]

    def _sharded_part(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """What all ranks write, taken out of the rest: in Lightning's form, which its loading expects."""
        if not self._save_distributed_checkpoint:
            return {}
        state = {"state_dict": checkpoint.pop("state_dict")}
        for number, optimizer in enumerate(checkpoint.pop("optimizer_states", [])):
            state[f"optimizer_{number}"] = optimizer
        return state

    def _by_first(self, work: Callable[[], None], target: Path) -> None:
        """Rank 0 works, and all go on when it has, or end with its reason: none waits for it in vain."""

        def own_part() -> None:
            try:
                if self.is_global_zero:
                    work()
            except Exception as error:  # a full disk, a full memory, a state that cannot be pickled
                raise unwritten(target, error) from error

        together(own_part)

    def _begin(self, checkpoint: dict[str, Any], part: Path) -> None:
        """A folder with what is not sharded; or everything, where that is one file."""
        part.parent.mkdir(parents=True, exist_ok=True)
        remove(part)  # of a run that was killed
        if not self._save_distributed_checkpoint:
            self.checkpoint_io.save_checkpoint(checkpoint, part)
            return
        part.mkdir()
        torch.save(checkpoint, part / REST)
        onto_disk(part / REST)  # torch does so with the shards and their list

    def finish(self) -> None:
        """Wait for the checkpoint that is being written; raises CheckpointError if it cannot be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            together(writing.wait)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's shards; where they are, if they are copied for being written aside."""
        if not self._async:
            return super().lightning_module_state_dict()
        assert self.model is not None
        return dict(get_model_state_dict(self.model))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As above."""
        if not self._async:
            return super().optimizer_state(optimizer)
        assert self.model is not None
        own = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return dict(get_optimizer_state_dict(self.model, own))

    def teardown(self) -> None:
        """Also waits for the last checkpoint."""
        self.finish()
        super().teardown()

    def on_exception(self, exception: BaseException) -> None:
        """The checkpoint that is being written may still come; the first error is the one to report."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.wait()
            except CheckpointError as error:
                logging.getLogger(__name__).warning("%s", error)
        super().on_exception(exception)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of any number of ranks.

        Raises:
            CheckpointError: it is not there, torn, of other networks, or of another optimizer.
        """
        self.finish()
        path = Path(self.broadcast(checkpoint_path))
        together(partial(self._check, path))
        own = settings_of(self.optimizers)
        try:
            rest = dict(super().load_checkpoint(path, weights_only))
        except (Exception, CheckpointException) as error:  # many kinds, and one that is no Exception
            raise unreadable(path, error) from error
        check_settings(path, settings_of(self.optimizers), own)
        return rest

    def _check(self, path: Path) -> None:
        module = self.lightning_module
        own = {} if module is None else {n: tuple(weight.shape) for n, weight in module.state_dict().items()}
        trains = module is not None and module.trainer.state.fn == "fit"
        if trains and is_checkpoint(path):  # before all that follows: its error names every option
            check_run(module, rest_of(path), settings_of(self.optimizers), tells=False)
        check_fits(path, own, trains=trains)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a file or a folder, when what takes its place is there."""
        self.finish()
        if self.is_global_zero:
            remove(Path(filepath))
