"""Each epoch's metrics -> one PNG of the learning curve; kept in the checkpoint, so it survives a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback

from rlef_lightning.callbacks.report_files import write_atomically
from rlef_lightning.callbacks.report_plot import plot_curves

if TYPE_CHECKING:
    from rlef_lightning.module import RLEFModule


class LearningCurve(Callback):
    """Keeps a row of metrics per epoch; writes the rows as JSON lines and draws them when training ends.

    Args:
        path: The PNG; the rows go beside it, with the ending .jsonl.
        title: Stands above the panels.
    """

    def __init__(self, path: str = "runs/curve.png", title: str = "RLEF") -> None:
        self.path, self.title = Path(path), title
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row, and its validation's numbers where there was one."""
        module = cast("RLEFModule", pl_module)
        row = {"epoch": float(trainer.current_epoch), **module.epoch_metrics, **module.evaluation_metrics}
        self.rows.append(row)
        if trainer.is_global_zero:
            lines = "".join(json.dumps(row) + "\n" for row in self.rows)
            write_atomically(self.path.with_suffix(".jsonl"), lines.encode())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        if trainer.is_global_zero and self.rows:
            plot_curves(self.path, self.rows, self.title)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of the checkpoint."""
        self.rows = list(state_dict["rows"])
