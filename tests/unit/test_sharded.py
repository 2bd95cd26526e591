"""Checkpoints in folders: put in their place at once, and found again after a kill between two renames."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlef_lightning.errors import CheckpointError
from rlef_lightning.placing import recover, recover_all, replace
from rlef_lightning.sharded import ShardedStrategy
from rlef_lightning.shards import SHARDS_LIST, is_checkpoint


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / SHARDS_LIST).write_text(text)
    return path


def test_a_new_folder_replaces_the_old_one(tmp_path: Path) -> None:
    target = folder(tmp_path / "last.ckpt", "old")
    replace(folder(tmp_path / ".last.ckpt.part", "new"), target)
    assert (target / SHARDS_LIST).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_file_replaces_a_folder_and_is_replaced_by_one(tmp_path: Path) -> None:
    target, part = folder(tmp_path / "last.ckpt", "old"), tmp_path / ".last.ckpt.part"
    part.write_text("file")
    replace(part, target)
    assert target.read_text() == "file"
    replace(folder(part, "folder"), target)
    assert (target / SHARDS_LIST).read_text() == "folder"


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "last.ckpt"
    folder(tmp_path / ".last.ckpt.old", "old")  # moved aside, and the new one was not there yet
    recover(target)
    assert (target / SHARDS_LIST).read_text() == "old"
    recover(target)  # nothing to do
    assert is_checkpoint(target)


def test_every_checkpoint_of_a_folder_is_found_again(tmp_path: Path) -> None:
    best = folder(tmp_path / ".best-epoch=3.ckpt.old", "best").with_name("best-epoch=3.ckpt")
    folder(tmp_path / ".last.ckpt.old", "older")
    last = folder(tmp_path / "last.ckpt", "new")  # the kill came after the second rename
    recover_all(tmp_path)
    assert (best / SHARDS_LIST).read_text() == "best"
    assert (last / SHARDS_LIST).read_text() == "new"
    recover_all(tmp_path / "not there yet")


def test_a_folder_without_its_list_is_no_checkpoint(tmp_path: Path) -> None:
    torn = tmp_path / "torn.ckpt"
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"half")
    assert not is_checkpoint(torn)
    assert not is_checkpoint(tmp_path / "nothing")


def test_what_is_not_there_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = ShardedStrategy()
    monkeypatch.setattr(strategy, "broadcast", lambda path: path)
    with pytest.raises(CheckpointError, match="there is no whole checkpoint"):
        strategy.load_checkpoint(tmp_path / "last.ckpt")
