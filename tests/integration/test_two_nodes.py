"""A run on two nodes trains as one process does, though it is told to end, and loses a node, on the way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .commands import CURVE, LAST, MODEL, TINY, curve, succeed
from .cpu_engine import CPU_ENGINE
from .nodes import Node, lacks, two_nodes

pytestmark = [pytest.mark.slow, CPU_ENGINE, pytest.mark.root, pytest.mark.timeout(900)]

OPTIONS = (
    "--trainer.max_epochs=3",
    "--data.problems_per_epoch=8",
    "--data.minibatches_per_epoch=2",
    "--trainer.check_val_every_n_epoch=5",
    "--trainer.logger=false",
    # Steps that change tokens: a rank that trained otherwise would sample otherwise.
    "--model.learning_rate=0.001",
    "--model.warmup_steps=1",
)
ON_NODES = (
    f"--config={TINY}",
    f"--model.model_folder={MODEL}",
    *OPTIONS,
    "--trainer.strategy=rlef_lightning.sharded.ShardedStrategy",
    "--trainer.strategy.init_args.timeout_s=120",
    "--trainer.strategy.init_args.async_checkpoints=true",
    "--data.rank_timeout_s=120",
    "--data.pace.max_episode_s=60",
    "--config=seldom.yaml",
)
# No checkpoint after the first epoch but the one at the signal.
SELDOM = """
trainer:
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs/tiny/checkpoints, filename: last, save_top_k: 1, every_n_epochs: 2,
                  save_on_train_epoch_end: true, enable_version_counter: false}
    - class_path: rlef_lightning.callbacks.PhaseProgress
    - class_path: rlef_lightning.callbacks.LearningCurve
      init_args: {path: runs/tiny/curve.png}
"""
ENDS_S = 60
"""Within so many seconds a node must notice that the other one is gone: half of its time-outs."""


@pytest.fixture(autouse=True)
def _nodes_can_be_made() -> None:
    if reason := lacks():
        pytest.skip(reason)


class Run:
    """A run on both nodes, and what it says."""

    def __init__(self, nodes: tuple[Node, Node], folder: Path, name: str) -> None:
        self._logs = [folder / f"{name}_{node.name}.txt" for node in nodes]
        self._launchers = [
            node.launch(folder, log.open("w"), *ON_NODES) for node, log in zip(nodes, self._logs, strict=True)
        ]

    def wait_for(self, path: Path) -> None:
        """Until a file is there, or another one in its place."""
        before = _inode(path)
        while _inode(path) == before and all(one.poll() is None for one in self._launchers):
            time.sleep(0.05)  # other processes write it
        assert all(one.poll() is None for one in self._launchers), self.said()[-4000:]

    def ends(self, within_s: float = 280) -> list[int]:
        return [launcher.wait(timeout=within_s) for launcher in self._launchers]

    def said(self) -> str:
        return "".join(log.read_text() for log in self._logs)


def _inode(path: Path) -> int:
    """Another one for each file that was put in its place; 0: none."""
    return path.stat().st_ino if path.exists() else 0


def tell_a_rank(node: Node) -> None:
    """As SLURM does, but one of them only."""
    for pid in node.processes():
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"rlef_lightning.cli" in line and b"torchrun" not in line:
            os.kill(pid, signal.SIGUSR1)


def test_two_nodes_train_like_one_process(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (two / "seldom.yaml").write_text(SELDOM)
    succeed("fit", *OPTIONS, cwd=one)
    with two_nodes(tmp_path) as nodes:
        told = Run(nodes, two, "told")
        told.wait_for(two / CURVE)
        assert not (two / LAST).exists()
        tell_a_rank(nodes[1])
        assert told.ends() == [1, 1]  # torchrun's own code; it names that of the ranks
        # Once at least: where the nodes meet may end first, and then the other launcher says only that.
        assert "exitcode  : 138" in told.said(), told.said()[-4000:]
        assert (two / LAST).is_dir()

        killed = Run(nodes, two, "killed")
        killed.wait_for(two / LAST)
        nodes[1].kill()
        assert killed.ends(ENDS_S) == [1, -signal.SIGKILL]
        (error,) = [line for line in killed.said().splitlines() if line.startswith("rlef: error: ")]
        assert "has ended" in error

        again = Run(nodes, two, "again")
        assert again.ends() == [0, 0], again.said()[-4000:]
        assert "Restored all states" in again.said()
        assert "epoch 1:" not in again.said()
    assert [row["epoch"] for row in curve(two)] == [0.0, 1.0, 2.0]
    for ours, theirs in zip(curve(two), curve(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
