"""Real training runs that start in a second: forked from a process with the config read and the engine built.

    python -m tests.integration.warm_fits FOLDER SEED KILLS

Runs once undisturbed in FOLDER/whole. In FOLDER/killed it starts a run, kills it by SIGKILL at a random
time, and so on, KILLS times; the last run is left alone. The kills are spread over what an epoch does
(PHASES), in a random order. Each run writes FOLDER/.../log_NUMBER.txt. Prints one JSON object: how the
runs ended, in which phases they were killed, how much was stored after each kill, how many processes were
left behind.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningCLI

from rlef_lightning.datamodule import RolloutDataModule
from rlef_lightning.execution.inside.kernel import PR_SET_CHILD_SUBREAPER, descendants_of, prctl
from rlef_lightning.generation import VLLMEngine
from rlef_lightning.module import RLEFModule
from rlef_lightning.problems import MicroProblems
from rlef_lightning.problems.json_lines import write_json_lines
from rlef_lightning.types import Limits

from .commands import LAST, MODEL, TINY

NAME = "tests.integration.warm_fits"
OPTIONS = (
    "--trainer.max_epochs=3",
    "--trainer.check_val_every_n_epoch=2",
    "--trainer.logger=false",
    "--data.problems=rlef_lightning.problems.JsonLines",
    "--data.problems.init_args.train=../train.jsonl",
    "--data.problems.init_args.validation=../validation.jsonl",
    "--data.problems_per_epoch=16",
    "--data.minibatches_per_epoch=2",
    "--data.validation.problems=8",
    # Steps large enough to change tokens, and a validation that samples them.
    "--model.learning_rate=0.002",
    "--model.warmup_steps=1",
    "--data.validation.play.sampling.temperature=1.0",
    # Episodes end one after the other, so that kills fall between them.
    "--data.pace.max_in_flight=4",
    "--data.store.keep_epochs=null",
    f"--data.engine.class_path={NAME}.WarmEngine",
)
STEP = 6
"""A run is killed after at most so many further episodes, and a little later."""
PHASES = ("collecting", "training", "scoring", "collecting", "checkpoint")
"""Each further kill is in one of them, in turn; one is in the validation, which is after the second epoch."""
LATER_S = {"collecting": 0.2, "scoring": 0.05, "training": 0.2, "checkpoint": 0.03, "evaluating": 0.03}
"""Seconds, at most, between the moment that is waited for and the kill: about as long as the phase takes."""
GONE_S = 20.0
"""Seconds in which the processes of a killed run must be gone."""
_built: dict[str, Any] = {}


class WarmEngine(VLLMEngine):
    """A VLLMEngine that takes over what the parent process has built. Its weights come by the first sync."""

    def start(self, model_folder: str, stop_token_ids: Sequence[int]) -> None:
        self._stop_token_ids = list(stop_token_ids)
        self._llm = _built["llm"]
        self._into = _built["into"]

    def close(self) -> None:
        self._llm = None


class Phases(Callback):
    """Appends the name of each phase to a file as the run enters it."""

    FILE = "phases.txt"

    def __init__(self, datamodule: RolloutDataModule) -> None:
        self._last, tell = "", datamodule._tell
        self.watched: Any = datamodule

        def told(phase: Any, done: int, total: int) -> None:
            self._enter(phase)
            tell(phase, done, total)

        self.watched._tell = told  # the listener is the progress line's

    def _enter(self, phase: str) -> None:
        if phase != self._last:
            self._last = phase
            with open(self.FILE, "a") as file:
                file.write(f"{phase}\n")

    def on_train_batch_start(self, *arguments: Any) -> None:
        """An optimizer step begins."""
        self._enter("training")

    def on_save_checkpoint(self, *arguments: Any) -> None:
        """A checkpoint is about to be written."""
        self._enter("checkpoint")


def build() -> None:
    """Import what a run imports, and build the engine of the tiny config."""
    import torch
    import yaml

    torch.set_num_threads(1)  # a fork keeps no threads
    engine = VLLMEngine(**yaml.safe_load(TINY.read_text())["data"]["engine"]["init_args"])
    engine.start(str(MODEL), [2])
    _built["llm"], _built["into"] = engine._llm, engine._into
    # Nor those of vLLM's process group of one; it is not needed any more.
    torch.distributed.destroy_process_group()
    # The config names the engine's class by this module's name, and it is to find what was built.
    sys.modules[NAME] = sys.modules[__name__]


def write_problems(folder: Path) -> None:
    """Micro problems on which no program comes near its time limit, however busy the machine is."""
    source = MicroProblems(train=80, validation=12)
    for split in ("train", "validation"):
        easy = [problem for problem in source.problems(split) if not problem.id.startswith("slow/")]
        write_json_lines(folder / f"{split}.jsonl", [replace(p, limits=Limits(cpu_s=2.0)) for p in easy])


def configured(folder: Path) -> LightningCLI:
    """What `rlef fit` does with its config before it trains; the config's paths are those in the folder."""
    folder.mkdir()
    os.chdir(folder)
    given = [f"--config={TINY}", f"--model.model_folder={MODEL}", f"--data.model_folder={MODEL}", *OPTIONS]
    run = LightningCLI(
        RLEFModule, RolloutDataModule, args=given, run=False, save_config_callback=None,
        seed_everything_default=0, auto_configure_optimizers=False,
    )  # fmt: skip
    run.trainer.callbacks.insert(0, Phases(run.datamodule))
    return run


def fork_fit(folder: Path, run: LightningCLI, number: int) -> int:
    """Start a run in a folder, resuming where there is a checkpoint; returns its process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(folder)
            log = os.open(f"log_{number}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            run.trainer.fit(run.model, run.datamodule, ckpt_path="last" if Path(LAST).exists() else None)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def stored(folder: Path) -> int:
    """Lines in all files of episodes."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / "runs/tiny/episodes").glob("*.jsonl"))


def entered(folder: Path) -> list[str]:
    """Phases that the runs in a folder have come to, in order."""
    file = folder / Phases.FILE
    return file.read_text().split() if file.exists() else []


def schedule(kills: int, moment: Random) -> list[str]:
    """The phases to kill in. The first is collecting: a part of a collection is there to be read back."""
    rest = [PHASES[number % len(PHASES)] for number in range(2, kills)]
    moment.shuffle(rest)
    # A kill at a checkpoint lets one epoch pass, at most. After two of them the validation may be past; and a
    # run that comes to the validation has passed the first epoch, so that two more would be all three.
    first, second = (place for place, phase in enumerate(rest) if phase == "checkpoint")
    rest.insert(moment.randint(first + 1, second), "evaluating")
    return ["collecting", *rest]


def kill_at_random(folder: Path, run: LightningCLI, number: int, phase: str, moment: Random) -> int:
    """One run that is killed; returns what it ended with, -9 if it was by the kill.

    While it collects: after some further episodes, and a little later. Else: a little after the phase began.
    """
    enough = stored(folder) + moment.randrange(1, STEP + 1)
    later_s = moment.uniform(0.0, LATER_S[phase])
    before = len(entered(folder))
    pid = fork_fit(folder, run, number)
    handle = os.pidfd_open(pid)

    def due() -> bool:
        since = entered(folder)[before:]
        # An epoch whose episodes are all there comes to its scoring without a new one.
        collected = stored(folder) >= enough or "scoring" in since
        return phase in since and (phase != "collecting" or collected)

    while not due() and not os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.002)
    time.sleep(later_s)  # the moment itself, not a wait
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    return ended(pid)


def ended(pid: int) -> int:
    """Wait for a run's end; its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left_behind() -> int:
    """Processes of ended runs that are still there after a while; they have become children of this one."""
    until = time.monotonic() + GONE_S
    while (left := descendants_of(os.getpid())) and time.monotonic() < until:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return 0
        time.sleep(0.05)
    return len(left)


def main() -> None:
    """See above."""
    folder, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    write_problems(folder)
    build()
    whole, killed = folder / "whole", folder / "killed"
    ends = [ended(fork_fit(whole, configured(whole), 0))]
    moment, run = Random(seed), configured(killed)
    progress, phases = [], schedule(kills, moment)
    for number, phase in enumerate(phases):
        ends.append(kill_at_random(killed, run, number, phase, moment))
        progress.append(stored(killed))
    ends.append(ended(fork_fit(killed, run, kills)))
    found = {"ends": ends, "phases": phases, "stored": progress, "left_behind": left_behind()}
    print(json.dumps(found), flush=True)
    os._exit(0)  # vLLM would take its process group down, which is gone


if __name__ == "__main__":
    main()
