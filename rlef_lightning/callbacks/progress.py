"""Phases and metrics -> one live line on a terminal, and one plain line an epoch anywhere.

Shows what an RL iteration is doing (collecting, scoring, updating, evaluating); computes nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rlef_lightning.module import RLEFModule

_SOLVE_RATE = re.compile(r"(validation|test/.+)/solve_\d+at\d+")
_SHOWN = {
    "train/solve_rate": "solved {:.2f}",
    "train/solve_rate_turn_1": "at turn 1 {:.2f}",
    "train/repair_rate": "repaired {:.2f}",
    "train/kl": "KL {:+.4f}",
    "train/entropy": "entropy {:.3f}",
    "train/collecting_tokens_per_s": "{:,.0f} tokens/s sampled",
    "train/updating_tokens_per_s": "{:,.0f} tokens/s trained",
}


class PhaseProgress(ProgressBar):
    """A progress line that names the phase.

    Args:
        console: Where to write; null: the process's own error stream.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True)
        self._enabled = True
        self._progress: Progress | None = None
        self._task: Any = None
        self._phase = ""

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen to the data module's phases."""
        super().setup(trainer, pl_module, stage)
        # Only the first rank writes; the base class has disabled the others by now.
        if self._enabled and trainer.is_global_zero:
            trainer.datamodule.listener = self._show  # type: ignore[attr-defined]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the live line away."""
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Take the live line away, so that the error stands alone."""
        self._stop()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count optimizer steps."""
        self._show("updating", batch_idx + 1, int(trainer.num_training_batches))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print what the epoch brought."""
        metrics = cast("RLEFModule", pl_module).epoch_metrics
        shown = [form.format(metrics[name]) for name, form in _SHOWN.items() if name in metrics]
        self._print(f"epoch {trainer.current_epoch}: " + ", ".join(shown))
        if self._progress is not None:
            # On the live line the last epoch's numbers stand beside the next one's phases.
            self._progress.update(self._task, numbers=", ".join(shown))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the solve rate; `validate` prints a table of everything besides."""
        self._print_rates(cast("RLEFModule", pl_module).evaluation_metrics)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print a line for each evaluation."""
        self._print_rates({name: float(value) for name, value in trainer.callback_metrics.items()})

    def _print_rates(self, metrics: dict[str, float]) -> None:
        for name in filter(_SOLVE_RATE.fullmatch, metrics):
            low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
            self._print(f"{name} {metrics[name]:.3f} (95%: {low:.3f} to {high:.3f})")

    def _print(self, line: str) -> None:
        if self._enabled:
            self._console.print(line, highlight=False, soft_wrap=True)

    def _show(self, phase: str, done: int, total: int) -> None:
        if not self._enabled or not self._console.is_terminal:
            return
        if self._progress is None:
            self._progress = _new_line(self._console)
            self._task = self._progress.add_task(phase, total=total, numbers="")
            self._progress.start()
        if phase != self._phase:
            self._progress.reset(self._task, description=phase)
            self._phase = phase
        self._progress.update(self._task, description=phase, completed=done, total=total)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _new_line(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    return Progress(*columns, console=console, transient=True)
