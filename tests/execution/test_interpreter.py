"""What jails are shown of the interpreter: its own folders, or a copy that works alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlef_lightning.execution import interpreter as room
from rlef_lightning.execution.interpreter import copy_inside, interpreter


def runs(python: str, environment: dict[str, str]) -> str:
    """Where an interpreter without anything else finds a module of its library."""
    code = "import wave; print(wave.__file__)"
    return subprocess.check_output([python, "-s", "-P", "-S", "-c", code], env=environment, text=True).strip()


def test_a_closed_interpreter_is_copied_and_the_copy_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "readable_by_others", lambda path: False)
    found = interpreter(str(tmp_path), ())
    assert found.python.startswith(str(tmp_path))
    assert runs(found.python, found.environment).startswith(str(tmp_path))
    assert str(tmp_path / "python") in found.readable


def test_an_open_interpreter_is_shown_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "readable_by_others", lambda path: True)
    found = interpreter(str(tmp_path), ())
    assert found.environment == {}
    assert list(tmp_path.iterdir()) == []
    home = os.path.dirname(os.__file__)
    assert any(home == path or home.startswith(f"{path}/") for path in found.readable)


def test_packages_are_shown_and_nothing_twice(tmp_path: Path) -> None:
    inner = tmp_path / "packages" / "inner"
    inner.mkdir(parents=True)
    found = interpreter(None, (str(inner.parent), str(inner), str(tmp_path / "absent")))
    assert str(inner.parent) in found.readable
    assert str(inner) not in found.readable
    assert str(tmp_path / "absent") not in found.readable


def test_the_runner_is_copied_without_the_project(tmp_path: Path) -> None:
    boot = copy_inside(str(tmp_path))
    assert sorted(os.listdir(boot)) == ["inside"]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import inside.runner; print(inside.runner.__file__)"
    printed = subprocess.check_output([sys.executable, "-P", "-S", "-c", code, boot], text=True)
    assert printed.strip() == f"{boot}/inside/runner.py"
