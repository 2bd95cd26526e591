"""Other networks than the default go the whole way: real engine, real programs, checkpoint, export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from .commands import LAST, MODEL, ROOT, SMALL, curve, environment, succeed
from .cpu_engine import CPU_ENGINE

pytestmark = pytest.mark.slow

TWO = f"--config={ROOT}/configs/trainer/two_cpu_ranks.yaml"
ONE = '--trainer.strategy={"class_path": "rlef_lightning.sharded.ShardedStrategy"}'
EXPERIMENTS = ROOT / "configs" / "experiment"
SHORT = (*SMALL, "--data.validation.problems=1", "--model.learning_rate=0.001", "--model.warmup_steps=1")


def test_a_value_head_on_the_trunk_is_trained(tmp_path: Path) -> None:
    overlay = f"--config={EXPERIMENTS / 'shared_value.yaml'}"
    succeed("fit", overlay, *SHORT, "--trainer.max_epochs=2", cwd=tmp_path)
    first, second = curve(tmp_path)
    for row in (first, second):
        assert row["train/parity"] <= 1e-4
        assert row["train/gradient_norm_policy"] > 0
        assert row["train/value_loss"] > 0
        assert "train/gradient_norm_value" not in row
    assert first["train/kl"] == 0.0 != second["train/kl"]
    state = torch.load(tmp_path / LAST, weights_only=False)["state_dict"]
    assert {name for name in state if not name.startswith("policy.model.")} == {
        "policy.value_head.weight",
        "policy.value_head.bias",
    }


@CPU_ENGINE
def test_adapters_are_trained_resumed_and_exported(tmp_path: Path) -> None:
    """Two ranks write adapters in shards; one goes on from them; what it exports is what it samples from."""
    options = (f"--config={EXPERIMENTS / 'lora.yaml'}", *SHORT)
    succeed("fit", TWO, *options, "--trainer.max_epochs=1", cwd=tmp_path)
    stored = FileSystemReader(tmp_path / LAST).read_metadata().state_dict_metadata
    weights = [name for name in stored if name.startswith("state_dict.")]
    assert len(weights) == 2 * 7 * 3 + 2  # A and B of seven layers in three, and the value head
    assert all(".lora_" in name or ".value_head." in name for name in weights)
    output = succeed("fit", ONE, *options, "--trainer.max_epochs=2", "--ckpt_path=last", cwd=tmp_path)
    assert "Restored all states" in output
    first, second = curve(tmp_path)
    for row in (first, second):
        assert row["train/parity"] <= 1e-4
        assert row["train/gradient_norm_policy"] > 0
    assert first["train/kl"] == 0.0 != second["train/kl"]
    line = [sys.executable, "-m", "rlef_lightning.cli", "export", str(tmp_path / LAST)]
    line += ["--model_folder", str(MODEL), "--to", str(tmp_path / "exported")]
    subprocess.run(line, env=environment(), check=True, timeout=120)
    trained, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "exported", MODEL))
    changed = {name for name in base if not torch.equal(trained[name], base[name])}
    assert changed == {name for name in base if "proj" in name}
