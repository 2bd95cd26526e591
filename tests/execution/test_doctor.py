"""`rlef doctor`: the table and its JSON, with backends that are installed, missing or broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlef_lightning.execution.doctor import BACKENDS, Examination, main
from rlef_lightning.execution.doctor_table import print_table
from rlef_lightning.execution.features import features
from rlef_lightning.execution.guarantees import NAMES, Finding

pytestmark = pytest.mark.slow


def examined(**changes: object) -> Examination:
    held = tuple(Finding(name, "") for name in NAMES)
    fields: dict[str, object] = {
        "name": "nsjail", "status": "started", "reason": "", "promised": NAMES, "findings": held,
        "walls_missing": (), "selftest_s": 0.1, "not_stopped": (),
    }  # fmt: skip
    return Examination(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_keeps_its_promises() -> None:
    broken = tuple(Finding(name, "x" if name == "disk" else "") for name in NAMES)
    assert examined().keeps_promises
    assert not examined(findings=broken).keeps_promises
    assert examined(findings=broken, promised=("time",)).keeps_promises
    assert not examined(status="does not start").keeps_promises


def test_json_of_a_backend_that_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--backend", "subprocess"]) == 0
    table = json.loads(capsys.readouterr().out)
    (found,) = table["backends"]
    assert table["ok"] is True
    assert list(table["guarantees"]) == [finding["name"] for finding in found["findings"]] == list(NAMES)
    assert (found["name"], found["status"], found["keeps_promises"]) == ("subprocess", "started", True)
    assert all(f["held"] for f in found["findings"] if f["name"] in found["promised"])
    assert "kernel" in " ".join(found["not_stopped"])
    assert set(table["machine"]) == set(features())


@pytest.mark.parametrize("name", ["nsjail", "bubblewrap", "firejail"])
def test_a_missing_helper_is_named_with_the_way_to_get_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--json", "--backend", name]) == 1
    table = json.loads(capsys.readouterr().out)
    assert table["ok"] is False
    assert table["backends"][0]["status"] == "not installed"
    assert table["backends"][0]["reason"] == BACKENDS[name].how_to_get  # type: ignore[attr-defined]


def test_a_helper_that_fails_is_shown_with_its_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tmp_path.joinpath("bwrap").write_text("#!/bin/sh\necho no name spaces today >&2\nexit 1\n")
    tmp_path.joinpath("bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["--json", "--backend", "bubblewrap"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["backends"]
    assert found["status"] == "does not start"
    assert "no name spaces today" in found["reason"]
    assert found["findings"] == []


def test_the_table_shows_gaps_and_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    gaps = tuple(Finding(name, "fill it [all]" if name == "disk" else "") for name in NAMES)
    missing = examined(name="firejail", status="not installed", reason="Get it", findings=(), promised=())
    print_table([examined(findings=gaps), missing], {"kernel": "9.9"})
    said = " ".join(capsys.readouterr().out.split())
    assert "kernel: 9.9" in said
    assert "BROKEN" in said
    assert "not held: disk: fill it [all]. To change it, use nsjail" in said
    assert "firejail: not installed Get it" in said
    assert "setuid root" in said
    assert "share the machine's kernel" in said


def test_the_command_is_quick_to_load_and_ends_with_a_code() -> None:
    code = (
        "import sys\nfrom rlef_lightning.cli import main\n"
        "try: main(['doctor', '--json', '--backend', 'subprocess'])\n"
        "except SystemExit as end: print(end.code)\n"
        "print(sorted({'torch', 'lightning', 'vllm', 'transformers', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    table, status, loaded = done.stdout.splitlines()
    assert json.loads(table)["ok"]
    assert (status, loaded) == ("0", "[]")
