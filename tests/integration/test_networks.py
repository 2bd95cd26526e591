"""Other networks than the default go the whole way: real engine, real programs, checkpoint, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .commands import LAST, ROOT, SMALL, curve, succeed

pytestmark = pytest.mark.slow

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
