"""SIGTERM or SIGUSR1 to any process of a run -> all of them save and end together, with one exit code.

Takes the place of Lightning's handlers: those exchange messages, and under SLURM write a checkpoint, within
the handler itself, while other ranks stand at other places of the program. Here a handler only takes a note,
which all ranks see, and they end where all of them have arrived. Queues no job again: see tools/launch/.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from rlef_lightning.errors import RankError
from rlef_lightning.ranks import Ranks

if TYPE_CHECKING:
    import lightning.pytorch as L

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Asked to end by whoever runs the machine; and told by SLURM that the time is nearly up."""


class Stopped(Exception):
    """A signal has come to this rank or another one while episodes are played or scored."""


class Stopping:
    """The wish to end, common to all ranks.

    Args:
        ranks: The processes of this run; all of them must make one of these.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._asked = ranks.counter()
        self._signal = 0
        self._now = True
        self._saved_step: int | None = None

    def listen(self, trainer: L.Trainer, *, now: bool) -> None:
        """Take notes from now on; Lightning puts the old handlers back when it tears down.

        Args:
            trainer: Of this run.
            now: The run may be ended until this is called again; else notes are kept for later.
        """
        self._now = now
        if self._saved_step is None:
            self._saved_step = trainer.global_step  # where there was a checkpoint, this is its step
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self._signal = max(self._signal, number)
        # Here: a rank that follows its engine's leader does not look itself. Rank 0 may be gone already.
        with contextlib.suppress(RankError):
            self._asked.add(1)

    def check(self) -> None:
        """Look whether to stop, at any time and without waiting for the others.

        Raises:
            Stopped: some rank has been asked to end.
        """
        if self._now and (self._signal or self._asked.add(0)):
            raise Stopped

    @contextlib.contextmanager
    def in_step(self, trainer: L.Trainer) -> Iterator[Callable[[], None]]:
        """Work in which no rank may stop alone: a check that all of them must call as often.

        Where one has been asked to, all stop at the same call; then the run ends as by `end`.
        """

        def check() -> None:
            if self._now and any(self._ranks.gather(self._signal)):
                raise Stopped

        try:
            yield check
        except Stopped:
            self.end(trainer)
            raise

    def end(self, trainer: L.Trainer) -> None:
        """End the run here if any rank has been asked to; all ranks must call it.

        What was trained since the last checkpoint is saved first: `last`, in its usual place.

        Raises:
            SIGTERMException: with exit code 128 + the signal, the same on all ranks.
            CheckpointError: it could not be saved, so the exit code must not say that it was.
        """
        number = max(self._ranks.gather(self._signal)) if self._now else 0
        if not number:
            return
        if trainer.state.fn == "fit":
            self._save(trainer)
            _wait_for_writing(trainer)
        raise SIGTERMException(128 + number)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.global_step == self._saved_step:
            return
        for callback in _of_last(trainer):
            if callback._last_global_step_saved != trainer.global_step:
                trainer.save_checkpoint(_path(callback))
        if not _of_last(trainer):
            logging.getLogger(__name__).warning("no ModelCheckpoint writes last.ckpt: nothing is saved")


def _wait_for_writing(trainer: L.Trainer) -> None:
    """A checkpoint that is written aside is saved when it is in its place, and not before."""
    finish = getattr(trainer.strategy, "finish", None)
    if finish is not None:
        finish()


def _of_last(trainer: L.Trainer) -> list[Any]:
    """The callbacks whose file `--ckpt_path last` finds."""
    return [
        callback
        for callback in trainer.checkpoint_callbacks
        if getattr(callback, "filename", None) == "last" or getattr(callback, "save_last", None)
    ]


def _path(callback: Any) -> Path:
    return Path(callback.dirpath) / f"last{callback.FILE_EXTENSION}"
