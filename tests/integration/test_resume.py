"""A run that is killed and resumed ends exactly where an uninterrupted one ends."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest
import torch

from .commands import CURVE, LAST, SMALL, command, curve, environment, succeed

pytestmark = pytest.mark.slow

# Steps large enough to change tokens, and a validation that samples them: whatever a resumed run does
# with other weights, or in another order, shows.
OPTIONS = (
    "--trainer.max_epochs=4",
    *SMALL,
    "--model.learning_rate=0.002",
    "--model.warmup_steps=1",
    "--data.validation.play.sampling.temperature=1.0",
)

# Checkpoints come so seldom that what is not saved at the signal is lost.
SELDOM = """
trainer:
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs/tiny/checkpoints, filename: last, save_top_k: 1, every_n_epochs: 4,
                  save_on_train_epoch_end: true, enable_version_counter: false}
    - class_path: rlef_lightning.callbacks.PhaseProgress
    - class_path: rlef_lightning.callbacks.LearningCurve
      init_args: {path: runs/tiny/curve.png}
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    succeed("fit", *OPTIONS, cwd=folder)
    return folder


def interrupt(folder: Path, moment: Random, sent: signal.Signals, *more: str) -> None:
    """Start a run, resuming where there is something to resume, and end it some time after an epoch."""
    # Killed, it has the last whole checkpoint; asked to end, it saves what it has trained.
    sign = folder / (LAST if sent == signal.SIGKILL else CURVE)
    before = _written(sign)
    options = ["--ckpt_path=last"] if before else []
    log = (folder / "log.txt").open("w")
    line = command("fit", *OPTIONS, *more, *options)
    process = subprocess.Popen(line, cwd=folder, env=environment(), stdout=log, stderr=log)
    while _written(sign) == before and process.poll() is None:
        time.sleep(0.05)  # waits for a file that another process writes
    time.sleep(moment.uniform(0.0, 1.0))  # the random moment itself, not a wait
    assert process.poll() is None, (folder / "log.txt").read_text()[-3000:]
    process.send_signal(sent)
    # Ended by the signal itself, or, asked to end, with the code that a shell gives for it.
    assert process.wait(timeout=60) == (-sent if sent == signal.SIGKILL else 128 + sent)
    log.close()


def _written(path: Path) -> int:
    """The file's time stamp, 0 for none."""
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_resumed_run_repeats_the_curve(uninterrupted: Path, tmp_path: Path, sent: signal.Signals) -> None:
    moment, more = Random(int(sent)), []
    if sent == signal.SIGTERM:
        (tmp_path / "seldom.yaml").write_text(SELDOM)
        more = ["--config=seldom.yaml"]
    for _ in range(1 if sent == signal.SIGKILL else 2):  # killed ten times: tests/integration/test_kills.py
        interrupt(tmp_path, moment, sent, *more)
    output = succeed("fit", *OPTIONS, *more, "--ckpt_path=last", cwd=tmp_path)
    assert "Restored all states" in output
    assert "epoch 0:" not in output
    assert curve(tmp_path) == curve(uninterrupted)
    ours, theirs = (_state(folder) for folder in (tmp_path, uninterrupted))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / LAST, weights_only=False)
    assert checkpoint["global_step"] == 8  # 4 epochs of 2 optimizer steps
    assert not any(name.startswith("reference.") for name in checkpoint["state_dict"])
    return dict(checkpoint["state_dict"])
