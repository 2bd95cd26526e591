"""Control groups, on folders that stand for the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlef_lightning.execution import cgroups
from rlef_lightning.execution.cgroups import Group, sweep_groups


class Machine:
    """A pretended /sys/fs/cgroup: new groups get the kernel's files as they are made."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self._monkeypatch = root, monkeypatch
        self._files: tuple[str, ...] = ()
        monkeypatch.setattr(cgroups, "_ROOT", root)
        mkdir, rmdir = Path.mkdir, Path.rmdir

        def make(folder: Path, *arguments: int) -> None:
            mkdir(folder, *arguments)
            for name in self._files:
                (folder / name).write_text("0\n")

        def remove(folder: Path) -> None:
            for name in self._files:
                (folder / name).unlink(missing_ok=True)
            rmdir(folder)

        monkeypatch.setattr(Path, "mkdir", make)
        monkeypatch.setattr(Path, "rmdir", remove)

    def has(self, memberships: str, *folders: str, files: tuple[str, ...]) -> None:
        """The groups of this process, folders that exist, and the files that a new group gets."""
        for folder in folders:
            os.makedirs(self.root / folder)
        (self.root / "own").write_text(memberships)
        self._monkeypatch.setattr(cgroups, "_MEMBERSHIPS", self.root / "own")
        self._files = files


V1 = (
    "cgroup.procs",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.oom_control",
    "pids.max",
)
V2 = ("cgroup.procs", "memory.max", "memory.swap.max", "memory.events", "pids.max")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_version_1_has_memory_and_processes_apart(machine: Machine) -> None:
    machine.has("8:pids:/\n4:memory:/job\n", "memory/job", "pids", files=V1)
    group = Group.make(0)
    assert group is not None
    name = f"rlef-{os.getpid()}-0"
    memory, pids = machine.root / "memory/job" / name, machine.root / "pids" / name
    assert group.gates == [str(memory / "cgroup.procs"), str(pids / "cgroup.procs")]
    group.limit_memory(1 << 30)
    group.limit_processes(40)
    assert (memory / "memory.limit_in_bytes").read_text() == "1073741824"
    assert (memory / "memory.memsw.limit_in_bytes").read_text() == "1073741824"
    assert (pids / "pids.max").read_text() == "40"
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert group.kills() == 3
    group.remove()
    assert not memory.exists()
    assert not pids.exists()


def test_version_2_without_room_below_its_own_group_takes_a_sibling(machine: Machine) -> None:
    machine.has("0::/user/job\n", "user/job", files=V2)
    (machine.root / "cgroup.controllers").write_text("memory pids\n")
    own = machine.root / "user/job"
    own.chmod(0o500)
    group = Group.make(1)
    assert group is not None
    expected = own if os.geteuid() == 0 else own.parent  # root may write where others may not
    folder = expected / f"rlef-{os.getpid()}-1"
    assert group.gates == [str(folder / "cgroup.procs")]
    group.limit_memory(100)
    assert (folder / "memory.max").read_text() == "100"
    assert (folder / "memory.swap.max").read_text() == "0"
    (folder / "memory.events").write_text("oom 1\noom_kill 2\n")
    assert group.kills() == 2


def test_a_limit_that_could_not_be_set_is_set_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("8:pids:/\n4:memory:/\n", "memory", "pids", files=V1)
    group = Group.make(0)
    assert group is not None
    file = machine.root / f"memory/rlef-{os.getpid()}-0/memory.limit_in_bytes"
    file.rename(file.with_suffix(".away"))
    file.mkdir()  # cannot be written, not even by root
    with pytest.raises(OSError):
        group.limit_memory(100)
    file.rmdir()
    file.with_suffix(".away").rename(file)
    group.limit_memory(100)
    assert file.read_text() == "100"
    group.remove()


def test_a_group_without_the_controllers_is_none(machine: Machine) -> None:
    machine.has("0::/job\n", "job", files=("cgroup.procs",))
    (machine.root / "cgroup.controllers").write_text("")
    assert Group.make(0) is None
    assert list((machine.root / "job").iterdir()) == []


def test_a_machine_without_groups_has_none(machine: Machine) -> None:
    machine.has("", files=())
    assert Group.make(0) is None


def test_groups_of_dead_daemons_are_swept(machine: Machine) -> None:
    machine.has("8:pids:/\n4:memory:/\n", "memory", "pids", files=())
    dead, living = "rlef-4194305-0", f"rlef-{os.getpid()}-0"  # beyond the largest process id
    for folder in ("memory", "pids"):
        for name in (dead, living, "other"):
            os.makedirs(machine.root / folder / name)
    sweep_groups()
    for folder in ("memory", "pids"):
        assert sorted(path.name for path in (machine.root / folder).iterdir()) == ["other", living]
