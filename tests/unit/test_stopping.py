"""A signal to one of two ranks ends both, with one exit code, after what was trained has been saved."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rlef_lightning.errors import CheckpointError
from rlef_lightning.ranks import Ranks
from rlef_lightning.stopping import SIGNALS, Stopped, Stopping
from tests.two_ranks import on_two_ranks


class Trainer(SimpleNamespace):
    """What a `Stopping` sees of a trainer; `saved` are the paths of its checkpoints."""

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(str(path))


def trainer(folder: Path, *, fn: str = "fit", step: int = 0) -> Any:
    callbacks = [
        ModelCheckpoint(dirpath=folder, filename="last"),
        ModelCheckpoint(dirpath=folder, filename="best", monitor="solved"),
    ]
    state = SimpleNamespace(fn=fn)
    return Trainer(
        state=state, global_step=step, checkpoint_callbacks=callbacks, saved=[], strategy=SimpleNamespace()
    )


@pytest.fixture
def _own_handlers() -> Any:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_handlers")
@pytest.mark.parametrize(
    ("fn", "steps", "saves"), [("fit", 4, True), ("fit", 0, False), ("validate", 4, False)]
)
@pytest.mark.parametrize("sent", SIGNALS)
def test_what_was_trained_is_saved(
    tmp_path: Path, sent: signal.Signals, fn: str, steps: int, saves: bool
) -> None:
    stopping, run = Stopping(Ranks()), trainer(tmp_path, fn=fn, step=8)
    stopping.listen(run, now=True)
    stopping.check()
    stopping.end(run)  # nobody has asked
    run.global_step += steps
    os.kill(os.getpid(), sent)
    with pytest.raises(Stopped):
        stopping.check()
    with pytest.raises(SIGTERMException) as ended:
        stopping.end(run)
    assert ended.value.code == 128 + sent
    assert run.saved == ([str(tmp_path / "last.ckpt")] if saves else [])


@pytest.mark.usefixtures("_own_handlers")
def test_a_validation_within_a_fit_is_not_cut_short(tmp_path: Path) -> None:
    stopping, run = Stopping(Ranks()), trainer(tmp_path)
    stopping.listen(run, now=False)
    os.kill(os.getpid(), signal.SIGTERM)
    stopping.check()
    stopping.end(run)
    stopping.listen(run, now=True)
    with pytest.raises(Stopped):
        stopping.check()


@pytest.mark.usefixtures("_own_handlers")
def test_what_is_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    stopping, run = Stopping(Ranks()), trainer(tmp_path)
    stopping.listen(run, now=True)
    run.global_step = run.checkpoint_callbacks[0]._last_global_step_saved = 4
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        stopping.end(run)
    assert run.saved == []


@pytest.mark.usefixtures("_own_handlers")
@pytest.mark.parametrize("steps", [0, 4])  # also where the checkpoint on its way is of before the signal
def test_a_checkpoint_that_cannot_be_written_aside_is_not_called_saved(tmp_path: Path, steps: int) -> None:
    stopping, run = Stopping(Ranks()), trainer(tmp_path)

    def finish() -> None:
        raise CheckpointError("cannot write the checkpoint: No space left on device")

    run.strategy.finish = finish
    stopping.listen(run, now=True)
    run.global_step += steps
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(CheckpointError, match="No space left"):  # exit code 1, and not 143
        stopping.end(run)


def passes(stopping: Stopping, run: Any, done: list[int], *, told: signal.Signals | None) -> None:
    """Six of them; in the third one this rank is told to end."""
    with stopping.in_step(run) as check:
        for number in range(6):
            check()
            if dist.is_initialized():
                dist.all_reduce(torch.ones(1))  # needs the other rank, which must not have stopped alone
            done.append(number)
            if number == 2 and told is not None:
                os.kill(os.getpid(), told)


@pytest.mark.usefixtures("_own_handlers")
def test_work_in_step_ends_at_its_next_check(tmp_path: Path) -> None:
    stopping, run = Stopping(Ranks()), trainer(tmp_path)
    stopping.listen(run, now=True)
    run.global_step, done = 4, []
    with pytest.raises(SIGTERMException) as ended:
        passes(stopping, run, done, told=signal.SIGUSR1)
    assert (done, ended.value.code) == ([0, 1, 2], 138)
    assert run.saved == [str(tmp_path / "last.ckpt")]


def is_stopped(stopping: Stopping) -> bool:
    try:
        stopping.check()
    except Stopped:
        return True
    return False


def one_is_told(rank: int, folder: Path) -> None:
    stopping, run = Stopping(Ranks(60.0)), trainer(folder)
    stopping.listen(run, now=True)
    run.global_step += 1
    if rank == 1:
        os.kill(os.getpid(), signal.SIGUSR1)
    else:
        assert any(is_stopped(stopping) for _ in iter(int, 1))  # though the other one does not look itself
    with pytest.raises(SIGTERMException) as ended:
        stopping.end(run)
    assert ended.value.code == 138
    assert run.saved == [str(folder / "last.ckpt")]  # all ranks write together


def one_is_told_in_step(rank: int, folder: Path) -> None:
    stopping, run = Stopping(Ranks(60.0)), trainer(folder)
    stopping.listen(run, now=True)
    done: list[int] = []
    with pytest.raises(SIGTERMException) as ended:
        passes(stopping, run, done, told=signal.SIGTERM if rank == 1 else None)
    assert (done, ended.value.code) == ([0, 1, 2], 143)


@pytest.mark.slow
def test_both_ranks_stop_at_the_same_pass(tmp_path: Path) -> None:
    on_two_ranks(one_is_told_in_step, tmp_path)


@pytest.mark.slow
def test_both_ranks_end_when_one_is_told(tmp_path: Path) -> None:
    on_two_ranks(one_is_told, tmp_path)
