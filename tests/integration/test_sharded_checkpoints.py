"""A run on two ranks goes on from its folder of shards, on two ranks and on one, with the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from .commands import LAST, ROOT, SMALL, curve, rlef, succeed

pytestmark = pytest.mark.slow

TWO = f"--config={ROOT}/configs/trainer/two_cpu_ranks.yaml"
ONE = '--trainer.strategy={"class_path": "rlef_lightning.sharded.ShardedStrategy"}'
OPTIONS = (
    *SMALL,
    "--model.learning_rate=0.001",
    "--model.warmup_steps=1",
    "--trainer.check_val_every_n_epoch=5",
)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks")
    succeed("fit", TWO, *OPTIONS, "--trainer.max_epochs=1", cwd=folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the checkpoint, whole."""
    whole = folder / "whole.pt"
    dcp_to_torch_save(folder / LAST, whole)
    state = torch.load(whole, weights_only=False)
    assert {name.split(".")[0] for name in state["state_dict"]} == {"policy", "value"}
    return dict(state["state_dict"])


def resumed(folder: Path, target: Path, *options: str) -> Path:
    """Goes on for one epoch in a copy, as after a kill between the two renames of a checkpoint."""
    shutil.copytree(folder, target)
    (target / LAST).rename((target / LAST).with_name(".last.ckpt.old"))
    output = succeed("fit", *options, *OPTIONS, "--trainer.max_epochs=2", "--ckpt_path=last", cwd=target)
    assert "Restored all states" in output
    return target


def test_one_rank_goes_on_as_two_do(two_ranks: Path, tmp_path: Path) -> None:
    before = weights(two_ranks)
    two = resumed(two_ranks, tmp_path / "two", TWO)
    one = resumed(two_ranks, tmp_path / "one", ONE)
    assert [row["epoch"] for row in curve(one)] == [row["epoch"] for row in curve(two)]
    for ours, theirs in zip(curve(one), curve(two), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    found, wanted = weights(one), weights(two)
    assert any(not torch.equal(wanted[name], before[name]) for name in wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=1e-5)


def test_a_torn_folder_is_refused(two_ranks: Path, tmp_path: Path) -> None:
    shutil.copytree(two_ranks, tmp_path / "torn")
    (tmp_path / "torn" / LAST / ".metadata").unlink()
    done = rlef("fit", ONE, *OPTIONS, "--ckpt_path=last", "--trainer.max_epochs=2", cwd=tmp_path / "torn")
    assert done.returncode == 1, done.stderr[-2000:]
    assert "there is no whole checkpoint" in done.stderr
