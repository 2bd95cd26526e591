"""Other objectives than the paper's go the whole way: real engine, real programs, one small epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .commands import LAST, ROOT, curve, rlef, succeed

pytestmark = pytest.mark.slow

OVERLAYS = ROOT / "configs" / "experiment"
SMALL = (
    "--trainer.max_epochs=1",
    "--data.minibatches_per_epoch=2",
    "--data.validation.problems=1",
    "--trainer.check_val_every_n_epoch=2",
)
VALUE = ("value_loss", "value_clip_fraction", "value_explained_variance", "gradient_norm_value")
SHOWN = ("mismatch_mean", "mismatch_max", "mismatch_kl", "correction_truncated", "behaviour_correction")


def trained(
    overlay: str, problems: int, cwd: Path, *options: str
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The curve's row and the weights after one epoch."""
    succeed(
        "fit",
        f"--config={OVERLAYS / overlay}",
        f"--data.problems_per_epoch={problems}",
        *SMALL,
        *options,
        cwd=cwd,
    )
    (row,) = curve(cwd)
    return row, torch.load(cwd / LAST, weights_only=False)["state_dict"]


def test_grpo_trains_without_a_value_network(tmp_path: Path) -> None:
    large_steps = ("--model.learning_rate=0.001", "--model.warmup_steps=1")
    row, state = trained("objective_grpo.yaml", 2, tmp_path, *large_steps)
    assert row["train/episodes"] == 16
    assert row["train/gradient_norm_policy"] > 0
    # At the first step the policy is the reference, and at the second it has moved away: above rounding.
    assert 1e-6 < row["train/loss_kl"] < 1
    assert not {f"train/{name}" for name in VALUE} & row.keys()
    assert {f"train/{name}" for name in SHOWN} <= row.keys()
    assert {name.split(".")[0] for name in state} == {"policy"}


def test_token_level_values_are_trained(tmp_path: Path) -> None:
    row, state = trained("objective_token_value.yaml", problems=8, cwd=tmp_path)
    assert row["train/episodes"] == 8
    assert min(row["train/gradient_norm_policy"], row["train/gradient_norm_value"]) > 0
    assert {f"train/{name}" for name in (*VALUE, *SHOWN)} <= row.keys()
    assert {name.split(".")[0] for name in state} == {"policy", "value"}


def test_groups_of_one_are_refused_before_anything_starts(tmp_path: Path) -> None:
    overlay = f"--config={OVERLAYS / 'objective_rloo.yaml'}"
    done = rlef("fit", overlay, "--data.play.samples_per_problem=1", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rlef: error:")]
    assert "data.play.samples_per_problem is 1" in line
    assert "RLOO" in line
