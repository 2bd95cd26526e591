"""The launch scripts: what they start, with stand-ins for torchrun, SLURM's commands and rlef on PATH."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment

LAUNCH = Path(__file__).resolve().parents[3] / "tools" / "launch"
BASE = {
    "SLURM_JOB_ID": "4200123",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "12",
}
RECORD = 'echo "$(basename "$0") $(printf "%q " "$@")" >> "$CALLS"\n'
# Ends as rlef does when it is told to: 128 + the signal.
SRUN = """
echo "$MASTER_ADDR:$MASTER_PORT $SRUN_CPUS_PER_TASK" >> "$CALLS"
for name in USR1 TERM; do trap "exit ${TOLD_ENDS:-$((128 + $(kill -l $name)))}" $name; done
if [[ $SRUN_ENDS == told ]]; then
    echo ready
    while :; do sleep 0.02; done
fi
exit "$SRUN_ENDS"
"""
STOP = 'echo "stop $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >> "$CALLS"\n'
SCONTROL = 'case "$2" in hostnames) printf "gpu07\\ngpu08\\n";; job) echo "JobState=$STATE";; esac\n'
FIT = ("rlef", "fit", "--config", "a b.yaml", "--trainer.num_nodes=2", "--trainer.devices=4")

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Starts a script of tools/launch with stand-ins that write down how they are called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {"rlef": "exit ${PLAN_ENDS:-0}\n", "torchrun": STOP, "srun": SRUN, "scontrol": SCONTROL}
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{RECORD}{text}")
        (folder / name).chmod(0o755)

    def start(script: str, **variables: str) -> subprocess.Popen[str]:
        own = {"PATH": f"{folder}:{os.defpath}", "CALLS": str(tmp_path / "calls"), "STATE": "RUNNING"}
        line = ["bash", str(LAUNCH / script), "--config", "a b.yaml"]
        return subprocess.Popen(
            line, env=own | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def calls(folder: Path) -> list[list[str]]:
    return [shlex.split(line) for line in (folder / "calls").read_text().splitlines()]


def test_torchrun_on_several_nodes(run: Run, tmp_path: Path) -> None:
    process = run(
        "torchrun.sh",
        RLEF_NODES="2",
        RLEF_RANKS_PER_NODE="4",
        RLEF_HEAD="gpu07",
        RLEF_RESTARTS="1",
        RLEF_ADDRESS="10.0.0.8",
        RLEF_PLAN_OPTIONS="--hardware h200-141gb",
    )
    assert process.wait() == 0, process.communicate()
    plan, launched, _ = calls(tmp_path)
    assert plan == ["rlef", "plan", "--hardware", "h200-141gb", *FIT[2:]]
    assert launched == [
        "torchrun", "--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d", "--rdzv-endpoint=gpu07:29400",
        "--rdzv-id=rlef", "--rdzv-conf=join_timeout=600", "--max-restarts=1",
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--local-addr=10.0.0.8",
        "-m", "rlef_lightning.cli", *FIT[1:], "--ckpt_path=last",
    ]  # fmt: skip


@pytest.mark.parametrize(("given", "seconds"), [({}, 1200), ({"RLEF_STOP_S": "45"}, 45)])
def test_ranks_have_time_to_finish_an_epoch(
    run: Run, tmp_path: Path, given: dict[str, str], seconds: int
) -> None:
    process = run("torchrun.sh", RLEF_PLAN="0", **given)
    assert process.wait() == 0, process.communicate()
    assert calls(tmp_path)[-1] == ["stop", str(seconds)]
    if not given:  # as long as SLURM's signal comes before the end
        assert f"--signal=B:USR1@{seconds}\n" in (LAUNCH / "slurm.sbatch").read_text()


RANK = """
import os, signal, sys, time
def told(number, frame):
    os.write(1, f"told {number}\\n".encode())  # at once: another rank writes there, too
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGUSR1, told)
os.write(1, b"up\\n")
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_torchrun_passes_on_that_it_is_told_to_end(tmp_path: Path, sent: signal.Signals) -> None:
    """The real one: the ranks are told once, and not started again."""
    (tmp_path / "rlef_lightning").mkdir()
    (tmp_path / "rlef_lightning" / "__init__.py").touch()
    (tmp_path / "rlef_lightning" / "cli.py").write_text(RANK)
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PYTHONPATH": str(tmp_path),
        "RLEF_PLAN": "0", "RLEF_RANKS_PER_NODE": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "torchrun.sh")], env=own, text=True, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert [process.stdout.readline() for _ in range(2)] == ["up\n"] * 2
        process.send_signal(sent)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert said.splitlines() == [f"told {int(sent)}"] * 2
    assert process.returncode == 1


def test_several_nodes_need_a_place_to_meet(run: Run, tmp_path: Path) -> None:
    process = run("torchrun.sh", RLEF_NODES="2")
    _, said = process.communicate()
    assert process.returncode == 2
    assert "RLEF_HEAD is not set" in said
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("script", ["torchrun.sh", "slurm.sbatch"])
def test_nothing_is_started_after_a_plan_that_is_wrong(run: Run, tmp_path: Path, script: str) -> None:
    process = run(script, PLAN_ENDS="1", **BASE)
    process.communicate()
    assert process.returncode == 1
    assert [call[:2] for call in calls(tmp_path) if call[0] != "scontrol"] == [["rlef", "plan"]]


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_of_slurm(run: Run, tmp_path: Path, code: int) -> None:
    process = run("slurm.sbatch", SRUN_ENDS=str(code), **BASE)
    _, said = process.communicate()
    assert process.returncode == code, said
    assert calls(tmp_path) == [
        ["scontrol", "show", "hostnames", "gpu[07-08]"],
        ["rlef", "plan", *FIT[2:]],
        ["srun", "--kill-on-bad-exit=1", *FIT, "--ckpt_path=last"],
        ["gpu07:20123", "12"],
    ]  # a failure is not queued again


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED"])
def test_a_job_that_is_told_to_end_is_queued_again(
    run: Run, tmp_path: Path, sent: signal.Signals, state: str
) -> None:
    process = run("slurm.sbatch", SRUN_ENDS="told", STATE=state, SLURM_RESTART_COUNT="1", **BASE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    process.communicate()
    assert process.returncode == 128 + sent
    told = calls(tmp_path)
    assert ["rlef", "plan"] not in [call[:2] for call in told]  # it has been planned the first time
    requeued = ["scontrol", "requeue", "4200123"]
    assert told[-1] == (requeued if state == "RUNNING" else ["scontrol", "show", "job", "4200123"])


def test_a_job_that_cannot_save_is_not_queued_again(run: Run, tmp_path: Path) -> None:
    process = run("slurm.sbatch", SRUN_ENDS="told", TOLD_ENDS="1", RLEF_PLAN="0", **BASE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 1
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_lightning_finds_the_ranks_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    of_task = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
    for name, value in (BASE | of_task | {"MASTER_ADDR": "gpu07", "MASTER_PORT": "20123"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_NAME", "rlef")
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert SLURMEnvironment.detect()
    found = SLURMEnvironment()
    found.validate_settings(num_devices=4, num_nodes=2)
    assert (found.main_address, found.main_port) == ("gpu07", 20123)
    assert (found.world_size(), found.global_rank(), found.local_rank(), found.node_rank()) == (8, 5, 1, 1)
