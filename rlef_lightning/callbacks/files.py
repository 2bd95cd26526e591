"""Evaluated episodes -> JSON files: solutions of `predict`, metrics and episodes of `test`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import BasePredictionWriter, Callback

from rlef_lightning.callbacks.report_files import write_atomically
from rlef_lightning.evaluation import Evaluated
from rlef_lightning.rollout.episode_json import episode_to_json


class SolutionWriter(BasePredictionWriter):
    """Writes the last program of every episode of `predict`, a JSON object a line.

    Args:
        path: The file; one that was there is replaced when all is done.
    """

    def __init__(self, path: str = "runs/solutions.jsonl") -> None:
        super().__init__(write_interval="epoch")
        self.path = Path(path)

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write the file; every rank has all solutions."""
        if not trainer.is_global_zero:
            return
        solutions = [solution for batch in predictions for solution in batch]
        _write_lines(self.path, solutions)
        print(f"{len(solutions)} solutions written to {self.path}")


class EvaluationFiles(Callback):
    """Writes what `test` measured: metrics.json, and for each evaluation NAME.jsonl with its episodes.

    Args:
        folder: Where; made if it is missing.
    """

    def __init__(self, folder: str = "runs/evaluation") -> None:
        self.folder = Path(folder)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Evaluated,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the episodes of one evaluation."""
        if trainer.is_global_zero:
            _write_lines(self.folder / f"{batch.name}.jsonl", map(episode_to_json, batch.collection.episodes))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the metrics."""
        if not trainer.is_global_zero:
            return
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        write_atomically(self.folder / "metrics.json", json.dumps(numbers, indent=1).encode())


def _write_lines(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in objects)
    # A lone surrogate, which a test of a problem may hold, becomes its JSON escape.
    write_atomically(path, lines.encode(errors="backslashreplace"))
