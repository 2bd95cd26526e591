"""`rlef fit` on two ranks: sharded networks, an engine in each, one checkpoint file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .commands import LAST, ROOT, curve, succeed
from .cpu_engine import CPU_ENGINE

pytestmark = [pytest.mark.slow, CPU_ENGINE]

OPTIONS = (
    f"--config={ROOT / 'configs/trainer/two_cpu_ranks.yaml'}",
    "--trainer.strategy.init_args.save_distributed_checkpoint=false",
    "--trainer.max_epochs=2",
    "--data.problems_per_epoch=8",
    "--data.minibatches_per_epoch=2",
    "--data.validation.problems=3",
    "--trainer.check_val_every_n_epoch=2",
)


def test_two_ranks_train_one_model(tmp_path: Path) -> None:
    output = succeed("fit", *OPTIONS, cwd=tmp_path)
    assert "Starting with 2 processes" in output
    assert output.count("epoch 1:") == 1  # one rank speaks
    first, second = curve(tmp_path)
    for row in (first, second):
        assert row["train/episodes"] == 8
        assert row["train/parity"] <= 1e-4
        # Engine and trainer agree on every sampled token: after the updates, too.
        assert row["train/mismatch_max"] <= 1e-4
        assert row["train/gradient_norm_policy"] > 0
        assert row["train/update_kl"] < 0.1
    assert first["train/kl"] == 0.0 != second["train/kl"]
    assert 0.0 <= second["validation/solve_1at3"] <= 1.0
    checkpoint = torch.load(tmp_path / LAST, weights_only=False)
    assert checkpoint["global_step"] == 4
    weights = checkpoint["state_dict"]
    assert {name.partition(".")[0] for name in weights} == {"policy", "value"}
    # Whole weights, so that one process can go on from here.
    assert weights["policy.model.lm_head.weight"].shape == (512, 128)
