"""`rlef plan` on the shipped configs of large models, as its users call it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rlef_lightning.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
pytestmark = pytest.mark.slow


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, dict[str, Any]]:
    """Exit code and the JSON that was printed."""
    with pytest.raises(SystemExit) as end:
        main(["plan", *arguments, "--json"])
    return end.value.code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(("size", "ranks", "updates"), [("8b", 8, 12_000), ("70b", 64, 8_000)])
def test_shipped_configs_fit(
    size: str, ranks: int, updates: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlef"])
    folder = CONFIGS / "architectures" / f"llama-3.1-{size}"
    code, plan = planned(
        capsys, "--config", str(CONFIGS / f"{size}.yaml"), "--model.model_folder", str(folder)
    )
    assert (code, plan["findings"]) == (0, [])
    assert plan["config"]["ranks"] == ranks
    assert plan["batches"]["steps"] == updates  # RLEF, sec. 3
    assert plan["batches"]["episodes"] == 1024
    assert plan["batches"]["sequences_per_step"] == 256
    for phase in ("sampling", "scoring", "updating"):
        assert sum(plan["memory"][phase].values()) < 0.95 * 80e9


def test_what_does_not_fit_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlef"])
    folder = CONFIGS / "architectures" / "llama-3.1-70b"
    code, plan = planned(
        capsys,
        "--config",
        str(CONFIGS / "8b.yaml"),
        "--model.model_folder",
        str(folder),
        "--prompt-tokens=900",
    )
    assert code == 1
    assert plan["lengths"]["prompt"] == 900
    assert any("updating needs" in one["text"] for one in plan["findings"] if one["kind"] == "wrong")


def test_a_folder_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlef"])
    with pytest.raises(SystemExit) as end:
        main(["plan", "--config", str(CONFIGS / "8b.yaml")])
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "models/Llama-3.1-8B-Instruct (setting `model.model_folder`) has no config.json" in said
    assert "--model.model_folder configs/architectures/llama-3.1-70b" in said
