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
    # The copy that is written aside: 12 bytes a weight, and a tenth of a GPU's share of its host.
    assert plan["config"]["async_checkpoints"]
    trained = sum(plan["shapes"][network]["shard"] for network in ("policy", "value"))
    assert plan["memory"]["host"]["copy of a checkpoint"] == 12 * trained < 0.11 * 256e9


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


def test_what_fit_would_refuse_is_said_in_its_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlef"])
    refused = (
        "--data.play.samples_per_problem=1",
        "--data.play.sampling.top_p=0.9",
        "--trainer.precision=bf16-mixed",
    )
    configs = (CONFIGS / "8b.yaml", CONFIGS / "experiment" / "objective_grpo.yaml")
    folder = f"--model.model_folder={CONFIGS / 'architectures' / 'llama-3.1-8b'}"
    code, plan = planned(capsys, *(f"--config={path}" for path in configs), folder, *refused)
    wrong = [one["text"] for one in plan["findings"] if one["kind"] == "wrong"]
    assert code == 1
    assert [text.partition(";")[0] for text in wrong] == [
        "trainer.precision is bf16-mixed",
        "data.play.sampling.top_p is 0.9",
        "data.play.samples_per_problem is 1",
    ]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("data.play.turn_limit=0", "turn_limit is 0; it must be at least 1"),
        ("data.minibatches_per_epoch=0", "data.minibatches_per_epoch is 0; it must be at least 1"),
        ("data.validation.k=2", "k is 2, but one episode of play.turn_limit=3 turns counts"),
        ("model.objective.clip_epsilon=0", "objective.clip_epsilon is 0"),
    ],
)
def test_numbers_of_which_no_run_can_be_made(
    option: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlef"])
    folder = f"--model.model_folder={CONFIGS / 'architectures' / 'llama-3.1-8b'}"
    with pytest.raises(SystemExit) as end:
        main(["plan", f"--config={CONFIGS / '8b.yaml'}", folder, f"--{option}"])
    assert end.value.code == 1
    assert f"rlef: error: {said}" in capsys.readouterr().err


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
