"""Host memory over many epochs of a real run: python tools/bench/memory.py --epochs 50 --json.

Runs `rlef fit` on configs/tiny.yaml, cut down, in a process of its own and a temporary folder: vLLM, sandbox,
store, scoring, updates and checkpoints are those of any run. After each epoch it notes the resident memory of
the run's process and of all processes below it. Prints one JSON object last, and ends with 1 unless memory
stayed flat, which means: the mean of the last fifth of the epochs is within GROWTH_BYTES of the mean of as
many epochs after the warm-up.

Two caches that have a limit, but take hundreds of epochs to reach it, are made small, or a leak would hide in
them: vLLM's key-value cache, whose blocks are taken in turn, and oneDNN's cache of matrix products, which
keeps the last 1,024 shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

if not __package__:  # started as a file: its folder is on the path, the project's root is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rlef_lightning.execution.inside.kernel import descendants_of
from tools.bench.soak import rss_bytes

ROOT = Path(__file__).resolve().parents[2]
TINY, MODEL = ROOT / "configs" / "tiny.yaml", ROOT / "tools" / "tiny_model" / "model"
GROWTH_BYTES = 16 << 20
CACHE_BLOCKS = 128
WARM_UP = 0.2
"""Share of the epochs in which caches fill: allocator, libraries that load late."""


def started(folder: Path, epochs: int, episodes: int) -> subprocess.Popen[bytes]:
    """The run, its output in log.txt."""
    command = [
        sys.executable, "-m", "rlef_lightning.cli", "fit", f"--config={TINY}",
        f"--model.model_folder={MODEL}", f"--trainer.max_epochs={epochs}",
        "--trainer.check_val_every_n_epoch=10", "--data.validation.problems=10",
        f"--data.problems_per_epoch={episodes}",
        f"--data.engine.init_args.extra={{num_gpu_blocks_override: {CACHE_BLOCKS}}}",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8",
    }
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def rows(folder: Path) -> int:
    """Epochs that have ended."""
    path = folder / "runs/tiny/curve.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def watched(run: subprocess.Popen[bytes], folder: Path, quiet: bool) -> tuple[list[int], list[int]]:
    """Resident bytes of the run's process, and of those below it, after each epoch."""
    own: list[int] = []
    below: list[int] = []
    while run.poll() is None:
        if rows(folder) > len(own):
            own.append(rss_bytes(run.pid))
            below.append(sum(map(rss_bytes, descendants_of(run.pid))))
            if not quiet:
                print(f"epoch {len(own)}: {own[-1] >> 20} MiB, below {below[-1] >> 20} MiB", flush=True)
        time.sleep(0.02)
    return own, below


def growth_bytes(after_epochs: Sequence[int]) -> int:
    """Between the first fifth after the warm-up and the last fifth, both as means."""
    first, size = int(len(after_epochs) * WARM_UP), max(1, len(after_epochs) // 5)
    return round(mean(after_epochs[-size:]) - mean(after_epochs[first : first + size]))


def measure(epochs: int, episodes: int, *, quiet: bool = True) -> dict[str, Any]:
    """One run.

    Raises:
        SystemExit: the run failed.
    """
    with tempfile.TemporaryDirectory(prefix="rlef-memory-") as name:
        folder = Path(name)
        run = started(folder, epochs, episodes)
        try:
            own, below = watched(run, folder, quiet)
        finally:
            run.kill()
            run.wait()
        if run.returncode != 0:
            sys.exit((folder / "log.txt").read_text(errors="replace")[-3000:])
    grown = {"own": growth_bytes(own), "below": growth_bytes(below)}
    return {
        "epochs": len(own),
        "episodes_per_epoch": episodes,
        "rss_mib": [round(number / 2**20, 1) for number in own],
        "rss_below_mib": [round(number / 2**20, 1) for number in below],
        "growth_mib": {part: round(number / 2**20, 2) for part, number in grown.items()},
        "flat": max(grown.values()) <= GROWTH_BYTES,
        "flat_means": f"mean of the last fifth within {GROWTH_BYTES >> 20} MiB of the one after warm-up",
    }


def main() -> int:
    """0 when the memory stayed flat, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--episodes", type=int, default=16, help="of one epoch")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    arguments = parser.parse_args()
    if arguments.epochs < 10 or arguments.episodes < 8:
        parser.error("--epochs must be at least 10, and --episodes at least 8")
    found = measure(arguments.epochs, arguments.episodes, quiet=arguments.json)
    print(json.dumps(found))
    return 0 if found["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
