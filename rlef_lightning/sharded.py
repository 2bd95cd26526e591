"""Lightning's strategy for weights sharded by FSDP2, with checkpoints that are whole or not there.

Checkpoints are written by all ranks, each its own shards, and can be read by any number of them. Adds nothing
to how networks are sharded: see models/sharding.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint import CheckpointException

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.agreeing import together
from rlef_lightning.shards import check_fits, is_checkpoint, unreadable

__all__ = ["ShardedStrategy", "is_checkpoint", "recover", "replace"]


class ShardedStrategy(ModelParallelStrategy):
    """All processes of the run share the weights; a checkpoint is a folder of shards.

    Args:
        save_distributed_checkpoint: Each rank writes its own shards. False: rank 0 gathers everything and
            writes one file, which needs a host that holds it all, and is simpler to move.
        process_group_backend: null: nccl on GPUs, gloo on CPUs.
        timeout_s: How long a collective waits for a rank before the run ends.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout_s: float = 1800.0,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timedelta(seconds=timeout_s),
        )

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
        target = Path(self.broadcast(filepath))
        part = target.with_name(f".{target.name}.part")
        try:
            if self.is_global_zero:
                target.parent.mkdir(parents=True, exist_ok=True)
                _remove(part)  # of a run that was killed
            self.barrier("checkpoint begun")
            super().save_checkpoint(checkpoint, part, storage_options)
        except (OSError, RuntimeError, CheckpointException) as error:
            raise CheckpointError(
                f"cannot write the checkpoint {target}: {error.__context__ or error}. Free some disk, or "
                "write elsewhere (dirpath of ModelCheckpoint); the last whole checkpoint is kept"
            ) from error
        self.barrier("checkpoint written")
        if self.is_global_zero:
            replace(part, target)
        self.barrier("checkpoint in place")

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of any number of ranks.

        Raises:
            CheckpointError: it is not there, torn, or of other networks.
        """
        path = Path(self.broadcast(checkpoint_path))
        together(partial(self._check, path))
        try:
            return dict(super().load_checkpoint(path, weights_only))
        except (Exception, CheckpointException) as error:  # many kinds, and one that is no Exception
            raise unreadable(path, error) from error

    def _check(self, path: Path) -> None:
        module = self.lightning_module
        own = {} if module is None else {n: tuple(weight.shape) for n, weight in module.state_dict().items()}
        check_fits(path, own, trains=module is not None and module.trainer.state.fn == "fit")

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a file or a folder."""
        if self.is_global_zero:
            _remove(Path(filepath))


def replace(part: Path, target: Path) -> None:
    """Put a folder or file in the target's place.

    A folder cannot be renamed over a full one: for a moment there is none, and the old one beside it.
    """
    old = target.with_name(f".{target.name}.old")
    _remove(old)
    if target.exists():
        os.rename(target, old)
    os.rename(part, target)
    _remove(old)


def recover(target: Path) -> None:
    """Put the old one back where `replace` was killed between its two renames."""
    old = target.with_name(f".{target.name}.old")
    if not target.exists():
        with contextlib.suppress(FileNotFoundError):  # nothing to recover, or another rank was first
            os.rename(old, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
