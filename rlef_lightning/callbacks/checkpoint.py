"""Checkpoints that are whole or not there: a Lightning plugin for reading and writing them.

Lightning writes through the system's temporary folder, which is often another file system; the last
step is then a copy onto the only checkpoint, and a run that is killed in it leaves half a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from rlef_lightning.errors import CheckpointError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; says what is wrong with a file that cannot be read."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Replace `path` in one step; a reader sees the old checkpoint or the new one.

        Raises:
            CheckpointError: the file could not be written.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")  # one name, so that kills leave one file at most
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, RuntimeError):  # torch's writer hides the system's error, a full disk say
                raise CheckpointError(
                    f"cannot write the checkpoint {target}: {error.__context__ or error}. Free some disk, or "
                    "write elsewhere (dirpath of ModelCheckpoint); the last whole checkpoint is kept"
                ) from error
            raise

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CheckpointError: the file is missing, torn, or not a checkpoint of this package.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"there is no checkpoint {path} (--ckpt_path)")
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # torch and pickle raise many kinds for a torn file
            raise CheckpointError(f"{path} is not a whole checkpoint (--ckpt_path): {error}") from error
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise CheckpointError(
                f"{path} holds no state_dict: it is not a checkpoint of a run (--ckpt_path)"
            )
        return checkpoint
