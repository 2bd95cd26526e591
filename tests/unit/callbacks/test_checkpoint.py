"""A checkpoint is whole or not there, and what is wrong with a file is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlef_lightning.callbacks import AtomicCheckpointIO
from rlef_lightning.errors import CheckpointError


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.tensor(3.0)}}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["w"] == 3.0
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_failed_save_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": 1}}, path)

    def half(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": 2}}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["w"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no checkpoint"), (b"PK half", "not a whole checkpoint"), ({"w": 1}, "no state_dict")],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=says):
        AtomicCheckpointIO().load_checkpoint(path)
