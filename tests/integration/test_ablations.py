"""The overlays of the paper's ablations: a short training of each with the real engine and real programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlef_lightning.rollout.store import read_episodes

from .commands import ROOT, SMALL, curve, succeed

pytestmark = pytest.mark.slow

EXPERIMENTS = ROOT / "configs/experiment"
# One epoch; what an epoch of 16 problems validates with takes no further epoch.
SHORT = ("--trainer.max_epochs=1", *SMALL, "--trainer.check_val_every_n_epoch=1")


@pytest.mark.parametrize(
    ("name", "fewest_turns", "most_turns"),
    [("no_feedback", 3.0, 3.0), ("random_feedback", 1.0, 3.0), ("single_turn", 1.0, 1.0)],
)
def test_an_ablation_trains(name: str, fewest_turns: float, most_turns: float, tmp_path: Path) -> None:
    succeed("fit", f"--config={EXPERIMENTS / f'ablation_{name}.yaml'}", *SHORT, cwd=tmp_path)
    (row,) = curve(tmp_path)
    for split in ("train", "validation"):
        assert fewest_turns <= row[f"{split}/mean_turns"] <= most_turns
        assert 0.0 <= row[f"{split}/ended/turn_limit"] <= 1.0
    assert row["train/parity"] <= 1e-4
    donors = sorted((tmp_path / "runs/tiny/episodes").glob("*-donors-*"))
    assert [path.name.rpartition("-donors-")[0] for path in donors] == (
        ["train", "validation"] if name == "random_feedback" else []
    )
    for path in donors:  # one response to each problem
        episodes = list(read_episodes(path))
        assert len({episode.problem_id for episode in episodes}) == len(episodes) > 1
        assert {len(episode.turns) for episode in episodes} == {1}
    if name == "no_feedback":
        assert row["train/ended/public_tests_passed"] == 0.0


def test_turn_limits_are_measured_side_by_side(tmp_path: Path) -> None:
    succeed(
        "test",
        f"--config={EXPERIMENTS / 'turn_limits.yaml'}",
        "--data.problems.init_args.test=4",
        cwd=tmp_path,
    )
    metrics = json.loads((tmp_path / "runs/tiny/evaluation/metrics.json").read_text())
    for limit in (1, 2, 3, 5, 10):
        assert 0.0 <= metrics[f"test/turns_{limit}/solve_1at10"] <= 1.0
        assert metrics[f"test/turns_{limit}/mean_turns"] <= limit
