"""Each epoch's metrics -> one PNG of the learning curve; kept in the checkpoint, so it survives a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback

from rlef_lightning.callbacks.report_files import write_atomically
from rlef_lightning.callbacks.report_plot import plot_curves


class LearningCurve(Callback):
    """Keeps a row of metrics per epoch; draws them, and writes them as JSON lines, when training ends.

    Args:
        path: The PNG; the rows go beside it, with the ending .jsonl.
        title: Stands above the panels.
    """

    def __init__(self, path: str = "runs/curve.png", title: str = "RLEF") -> None:
        self.path, self.title = Path(path), title
        self.rows: list[dict[str, float]] = []
        self._validation: dict[str, float] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the numbers until the epoch's row is written."""
        if not trainer.sanity_checking:
            self._validation = _numbers(trainer, "validation/")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row."""
        row = {"epoch": float(trainer.current_epoch), **_numbers(trainer, "train/"), **self._validation}
        self.rows.append(row)
        self._validation = {}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and write."""
        if trainer.is_global_zero and self.rows:
            lines = "".join(json.dumps(row) + "\n" for row in self.rows)
            write_atomically(self.path.with_suffix(".jsonl"), lines.encode())
            plot_curves(self.path, self.rows, self.title)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of the checkpoint."""
        self.rows = list(state_dict["rows"])


def _numbers(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
