"""Shards in memory -> a folder of shards on disk, written aside by a thread while the run goes on.

The folder takes the place of the old one when every rank has written. What the thread could not do is said
when somebody waits for it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException, async_save

from rlef_lightning.errors import CheckpointError
from rlef_lightning.placing import replace
from rlef_lightning.shards import reasons


class Writing:
    """One checkpoint on its way to the disk.

    Args:
        state: What is written: copied to the host's memory before this returns.
        part: The folder that it is written into.
        target: The folder whose place it takes.
        group: All ranks, over gloo, used for nothing else meanwhile.
    """

    def __init__(self, state: dict[str, Any], part: Path, target: Path, group: dist.ProcessGroup) -> None:
        self._target = target
        upload = async_save(state, checkpoint_id=part, process_group=group)
        assert isinstance(upload, Future)  # the copy has been made
        executor = ThreadPoolExecutor(1, "checkpoint")
        self._done = executor.submit(_place, upload, part, target if dist.get_rank() == 0 else None)
        executor.shutdown(wait=False)

    def wait(self) -> None:
        """Until it is in its place.

        Raises:
            CheckpointError: it could not be written; what was there before is kept.
        """
        try:
            self._done.result()
        except (Exception, CheckpointException) as error:  # many kinds, and one that is no Exception
            raise unwritten(self._target, error) from error


def _place(upload: Future[Any], part: Path, target: Path | None) -> None:
    """Rank 0 writes the list of all shards, and has done so only when every rank has written."""
    upload.result()
    if target is not None:
        replace(part, target)


def unwritten(target: Path, error: BaseException) -> CheckpointError:
    """The error for a checkpoint that could not be written, with the reasons of all ranks."""
    if isinstance(error, CheckpointError):
        return error
    # torch's writer hides the system's error, a full disk say.
    reason = reasons(error) or error.__context__ or error
    return CheckpointError(
        f"cannot write the checkpoint {target}: {reason}. Free some disk, or "
        "write elsewhere (dirpath of ModelCheckpoint); the last whole checkpoint is kept"
    )
