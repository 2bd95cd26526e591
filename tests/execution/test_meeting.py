"""Where ranks meet when several machines have the folder for temporary files in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlef_lightning.execution import SubprocessExecutor, job
from rlef_lightning.execution.job import meeting_folder
from rlef_lightning.execution.meeting import held, listen, sweep


def folder_on(machine: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The meeting place of the same ranks on a machine with this boot id, in a folder that all see."""
    boot_id = shared / f"boot-{machine}"
    boot_id.write_text(machine)
    monkeypatch.setattr(job, "_BOOT_ID", boot_id)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared))
    return Path(meeting_folder("ranks", SubprocessExecutor()._settings("")))


def test_ranks_of_two_machines_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (folder_on(machine, tmp_path, monkeypatch) for machine in ("one", "two"))
    assert first != second
    assert folder_on("one", tmp_path, monkeypatch) == first


def dead_socket(folder: Path) -> Path:
    """A socket on which nobody listens, as those of another machine look."""
    with held(str(folder)) as descriptor:
        name, listener = listen(descriptor)
        listener.close()
    return folder / name


def test_another_machines_folder_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = dead_socket(folder_on("two", tmp_path, monkeypatch))
    own = dead_socket(folder_on("one", tmp_path, monkeypatch))
    sweep(str(tmp_path))
    assert theirs.is_socket()
    assert not own.parent.exists()
