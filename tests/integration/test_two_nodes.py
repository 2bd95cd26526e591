"""A run on two nodes trains as one process does, also when one node is killed and both are started again."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from .commands import LAST, MODEL, TINY, curve, succeed
from .nodes import Node, lacks, two_nodes

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(900)]

OPTIONS = (
    "--trainer.max_epochs=2",
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
    "--data.rank_timeout_s=120",
)
ENDS_S = 60
"""Within so many seconds a node must notice that the other one is gone: half of its time-outs."""


@pytest.fixture(autouse=True)
def _nodes_can_be_made() -> None:
    if reason := lacks():
        pytest.skip(reason)


def launch(nodes: tuple[Node, Node], folder: Path, name: str) -> list[subprocess.Popen[str]]:
    logs = [(folder / f"{name}_{node.name}.txt").open("w") for node in nodes]
    return [node.launch(folder, log, *ON_NODES) for node, log in zip(nodes, logs, strict=True)]


def said(folder: Path, name: str) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob(f"{name}_*.txt")))


def test_two_nodes_train_like_one_process_though_one_is_killed(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    succeed("fit", *OPTIONS, cwd=one)
    with two_nodes(tmp_path) as nodes:
        running = launch(nodes, two, "killed")
        while not (two / LAST).exists() and all(process.poll() is None for process in running):
            time.sleep(0.05)  # waits for a checkpoint that other processes write
        assert all(process.poll() is None for process in running), said(two, "killed")[-4000:]
        nodes[1].kill()
        assert running[0].wait(timeout=ENDS_S) == 1
        running[1].wait()
        (error,) = [line for line in said(two, "killed").splitlines() if line.startswith("rlef: error: ")]
        assert "has ended" in error

        running = launch(nodes, two, "again")
        assert [process.wait(timeout=280) for process in running] == [0, 0], said(two, "again")[-4000:]
        assert "Restored all states" in said(two, "again")
        assert "epoch 0:" not in said(two, "again")
    assert [row["epoch"] for row in curve(two)] == [0.0, 1.0]
    for ours, theirs in zip(curve(two), curve(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
