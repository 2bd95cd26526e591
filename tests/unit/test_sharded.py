"""Checkpoints in folders: put in their place at once, and found again after a kill between two renames."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint
from lightning.fabric.utilities.load import _METADATA_FILENAME

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.exporting import META
from rlef_lightning.placing import recover, recover_all, replace
from rlef_lightning.sharded import ShardedStrategy
from rlef_lightning.shards import REST, SHARDS_LIST, is_checkpoint


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / SHARDS_LIST).write_text(text)
    torch.save({"epoch": 1}, path / REST)
    return path


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is forced onto the disk, renamed and removed, in the order in which that happens."""
    found: list[str] = []
    sync, rename, erase = os.fsync, os.rename, shutil.rmtree

    def fsync(opened: int) -> None:
        found.append(f"sync {Path(os.readlink(f'/proc/self/fd/{opened}')).name}")
        sync(opened)

    def renamed(source: Path, target: Path) -> None:
        found.append(f"{source.name} -> {target.name}")
        rename(source, target)

    def erased(path: Path, **how: bool) -> None:
        found.append(f"remove {path.name}")
        erase(path, **how)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(shutil, "rmtree", erased)
    return found


def test_all_is_on_the_disk_before_the_old_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    target, part = folder(run / "last.ckpt", "old"), run / ".last.ckpt.part"
    found = recorded(monkeypatch)
    ShardedStrategy()._begin({"epoch": 2}, part)
    shards = {"weight": torch.zeros(3)}
    torch.distributed.checkpoint.save(shards, checkpoint_id=part, no_dist=True)
    replace(part, target)
    written = found.index("sync .last.ckpt.part")
    assert found[0] == "sync meta.pt"
    assert {"sync __0_0.distcp", "sync .metadata.tmp"} <= set(found[:written])
    assert found[written:] == [
        "sync .last.ckpt.part",
        "last.ckpt -> .last.ckpt.old",
        ".last.ckpt.part -> last.ckpt",
        "sync run",
        "remove .last.ckpt.old",
    ]
    assert is_checkpoint(target)


def test_the_only_one_is_not_removed_before_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / ".last.ckpt.old", "old")  # of a kill between the renames
    part = folder(tmp_path / ".last.ckpt.part", "new")
    found = recorded(monkeypatch)
    replace(part, tmp_path / "last.ckpt")
    assert found.index(".last.ckpt.part -> last.ckpt") < found.index("remove .last.ckpt.old")


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_folder_whose_rest_is_torn_is_no_checkpoint(tmp_path: Path, kept: int) -> None:
    target = folder(tmp_path / "last.ckpt", "list")
    assert is_checkpoint(target)
    whole = (target / REST).read_bytes()
    (target / REST).write_bytes(whole[:kept])
    assert not is_checkpoint(target)
    (target / REST).write_bytes(bytes(len(whole)))  # as a file system may leave it: the size, and no content
    assert not is_checkpoint(target)
    (target / REST).unlink()
    assert not is_checkpoint(target)


def test_lightning_and_the_export_know_the_rest_by_the_same_name() -> None:
    assert REST == _METADATA_FILENAME == META


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
