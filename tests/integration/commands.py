"""Running rlef as its users do: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "tiny.yaml"
MODEL = ROOT / "tools" / "tiny_model" / "model"
LAST = "runs/tiny/checkpoints/last.ckpt"
CURVE = "runs/tiny/curve.jsonl"

# 16 episodes an epoch instead of hundreds: the same path, in seconds.
SMALL = (
    "--data.problems_per_epoch=16",
    "--data.minibatches_per_epoch=2",
    "--data.validation.problems=6",
    "--trainer.check_val_every_n_epoch=2",
)


def command(name: str, *options: str) -> list[str]:
    """The command line of `rlef NAME` on the tiny config."""
    line = [sys.executable, "-m", "rlef_lightning.cli", name, f"--config={TINY}"]
    return [*line, f"--model.model_folder={MODEL}", *options]


def environment() -> dict[str, str]:
    """The project on the path, one thread so that sums do not depend on the machine."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def rlef(name: str, *options: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end, output captured."""
    return subprocess.run(
        command(name, *options),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        **more,
    )


def succeed(name: str, *options: str, cwd: Path) -> str:
    """Run to the end, which must be a good one; returns both streams."""
    done = rlef(name, *options, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def curve(cwd: Path) -> list[dict[str, float]]:
    """The rows of the learning curve, without what a clock decides."""
    lines = (cwd / CURVE).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_per_s")} for line in lines]
