"""The self-test: a probe fails where nothing stops it; what it finds is required, refused or reported."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest

from rlef_lightning.errors import ConfigError, ExecutorError
from rlef_lightning.execution import (
    BubblewrapExecutor,
    FirejailExecutor,
    NsjailExecutor,
    SubprocessExecutor,
    guarantees,
    selftest,
)
from rlef_lightning.execution.backends.helper import EVERYTHING
from rlef_lightning.execution.guarantees import GUARANTEES, NAMES, Finding, Proof, check_names, refusal
from rlef_lightning.execution.inside.kernel import descendants_of
from rlef_lightning.execution.link import RunnerLostError
from rlef_lightning.execution.probes.bounds import bounds
from rlef_lightning.execution.probes.decoys import Decoys
from rlef_lightning.execution.probes.probe import Outcome, Probe, verdict
from rlef_lightning.execution.probes.reach import REACH
from rlef_lightning.execution.probes.walls import WALLS, rights
from rlef_lightning.execution.runs import RunFacts
from rlef_lightning.execution.selftest import attempt, join, spread
from rlef_lightning.execution.settings import Settings
from rlef_lightning.execution.worker import Worker
from rlef_lightning.types import Limits

pytestmark = pytest.mark.slow

ROOT = os.geteuid() == 0
SETTINGS = Settings(
    workers=1, workers_per_solution=None,
    report_chars=100, retries=0, recycle_after=10, start_timeout_s=9.0, grace_s=1.0,
    scratch_bytes=1 << 20, scratch_files=100, cgroups=False, required=(), preload_numpy=False,
    owner_pid=os.getpid(), scratch="", jail="",
)  # fmt: skip
ALL = (*WALLS, *REACH, *bounds(SETTINGS))
ENDED = RunFacts(
    stage="r", status=0, stopped=None, cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0, strays=0,
    stdout=b"", stderr=b"",
)  # fmt: skip
NOBODY = {
    "Pid": "\t4711", "NSpid": "\t4711\t7",
    "Uid": "\t60706\t60706\t60706\t60706", "Gid": "\t60706\t60706\t60706\t60706", "Groups": "\t",
    "CapInh": "\t00", "CapPrm": "\t00", "CapEff": "\t00", "CapAmb": "\t00", "NoNewPrivs": "\t1",
}  # fmt: skip


@pytest.fixture
def decoys(tmp_path: Path) -> Iterator[Decoys]:
    """For probes that run in no sandbox at all."""
    made = Decoys(str(tmp_path), os.getpid())
    yield made
    made.close()


def outcome(decoys: Decoys, **facts: object) -> Outcome:
    return Outcome(
        facts=replace(ENDED, **facts),  # type: ignore[arg-type]
        decoys=decoys,
        credentials=(NOBODY,),
        survivors=0,
    )


def test_every_guarantee_is_attacked() -> None:
    assert {probe.guarantee for probe in ALL} == set(NAMES) == set(EVERYTHING)
    assert len(set(NAMES)) == len(NAMES) == 17
    for backend in (SubprocessExecutor, NsjailExecutor, BubblewrapExecutor, FirejailExecutor):
        assert backend(required=NAMES).required == NAMES


@pytest.mark.parametrize("probe", ALL, ids=lambda probe: probe.guarantee)
@pytest.mark.parametrize(
    "facts",
    [
        {"status": 1, "stderr": b"Traceback"},
        {"status": -9},
        {"stdout": b""},
        {"stdout": b"yes"},
        {"stdout": b"{}"},
        {"stdout": b"[[1"},
        {"stopped": "words that no runner says"},
    ],
    ids=["crash", "killed", "silent", "words", "empty", "torn", "stopped"],
)
def test_a_probe_that_fails_proves_nothing(probe: Probe, facts: dict[str, object], decoys: Decoys) -> None:
    assert verdict(probe, outcome(decoys, **facts)) != ""


def run_bare(probe: Probe, decoys: Decoys, folder: Path) -> RunFacts:
    """A probe as a plain program of this user, who may do whatever it tries: nothing in it does harm."""
    (folder / "worker" / "disk" / "run").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", probe.code], input=decoys.to_json(), capture_output=True, check=False,
        cwd=folder / "worker" / "disk" / "run", env={"PATH": "/usr/bin:/bin", "SECRET": "1"}, timeout=60,
    )  # fmt: skip
    return replace(ENDED, status=done.returncode, stdout=done.stdout, stderr=done.stderr)


WITHOUT_HARM = ("environment", "descriptors", "read_files", "processes", "network")
BARE = [probe for probe in ALL if probe.guarantee in WITHOUT_HARM]


@pytest.mark.parametrize("probe", BARE, ids=lambda probe: probe.guarantee)
def test_a_probe_sees_that_there_is_no_wall(probe: Probe, decoys: Decoys, tmp_path: Path) -> None:
    facts = run_bare(probe, decoys, tmp_path)
    found = verdict(probe, outcome(decoys, **{n: getattr(facts, n) for n in ("status", "stdout", "stderr")}))
    expected = {
        "environment": "SECRET",
        "descriptors": "its probe failed: the kinds of its streams",
        "read_files": "read a file that is open to all",
        "processes": "signal the trainer",
        "network": "reach UDP of the machine",
    }[probe.guarantee]
    assert expected in found


def test_notes_are_found_where_they_stay(tmp_path: Path) -> None:
    """Attributes need a file system that has them; the rest is left on any."""
    _, looks, notes, _ = (probe for probe in ALL if probe.guarantee == "survivors")
    folder = tmp_path / "disk" / "run"
    folder.mkdir(parents=True)
    said = []
    for probe in (looks, notes, looks):
        command = [sys.executable, "-c", probe.code]
        said.append(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)
    assert (said[0], said[1]) == (b"[]\n", b"1\n")
    assert json.loads(said[2]).count("times") == json.loads(said[2]).count("modes") == 2


def test_what_arrives_outside_counts_whatever_the_probe_says(decoys: Decoys, tmp_path: Path) -> None:
    told = json.loads(decoys.to_json())
    assert decoys.touched() == []
    Path(told["places"][0], told["token"]).write_text("")
    assert decoys.touched() == [f"leave a file in {told['places'][0]}"]
    assert decoys.touched() == []
    probe = next(probe for probe in REACH if probe.guarantee == "network")
    run_bare(probe, decoys, tmp_path)
    assert set(decoys.touched()) == {
        "reach TCP of the machine", "reach UDP of the machine", "reach an abstract socket of the machine",
        "reach a socket with a path of the machine",
    }  # fmt: skip


def test_the_program_is_found_among_the_processes(decoys: Decoys) -> None:
    (probe,) = [probe for probe in ALL if probe.guarantee == "privileges"]
    said = outcome(decoys, stdout=b'{"pid": 7, "gained": []}')
    runner = {**NOBODY, "NSpid": "\t4710\t1", "Uid": "\t0\t0\t0\t0"}
    assert verdict(probe, replace(said, credentials=(runner, NOBODY))) == ""
    assert (
        verdict(probe, replace(said, credentials=(runner, {**NOBODY, "Uid": runner["Uid"]}))) == "act as root"
    )
    assert "not seen from outside" in verdict(probe, replace(said, credentials=(runner,)))


def test_rights_are_read_from_the_kernels_words() -> None:
    assert rights(NOBODY) == []
    assert rights({**NOBODY, "Uid": "\t60706\t60706\t0\t60706"}) == ["act as root"]
    assert rights({**NOBODY, "Groups": "\t4 0 "}) == ["act as root's group"]
    assert rights({**NOBODY, "CapPrm": "\t0000000000000001"}) == ["use capabilities"]
    assert rights({**NOBODY, "NoNewPrivs": "\t0"}) == ["gain rights by a setuid program"]


def test_bounds_that_do_not_hold_are_seen(decoys: Decoys) -> None:
    by_name = {probe.guarantee: probe for probe in ALL}
    assert "born" not in verdict(by_name["process_count"], outcome(decoys, stdout=b"8"))
    assert verdict(by_name["process_count"], outcome(decoys, stdout=b"8")) == ""
    assert "have 9 threads" in verdict(by_name["process_count"], outcome(decoys, stdout=b"9"))
    assert verdict(by_name["memory"], outcome(decoys, status=-12)) == ""
    assert "allocate more" in verdict(by_name["memory"], outcome(decoys, stdout=b"allocated\n"))
    assert "hold" in verdict(by_name["total_memory"], outcome(decoys, stdout=b"held\n"))
    assert verdict(by_name["total_memory"], outcome(decoys, stopped="memory")) == ""
    assert "beyond its limit" in verdict(by_name["file_size"], outcome(decoys, stdout=b"2097152"))
    full = outcome(decoys, stdout=b'{"taken": false, "files": 100}')
    assert verdict(by_name["disk"], full) == ""
    free = outcome(decoys, stdout=b'{"taken": true, "files": 101}')
    assert (
        verdict(by_name["disk"], free)
        == "fill 2097152 bytes where 1048576 are allowed, make more than 100 files"
    )
    leaves, looks, notes, again = (probe for probe in ALL if probe.guarantee == "survivors")
    assert again is looks
    assert verdict(leaves, outcome(decoys, stdout=b"1")) == ""
    assert verdict(leaves, replace(outcome(decoys, stdout=b"1"), survivors=1)) != ""
    assert verdict(looks, outcome(decoys, stdout=b"[]")) == ""
    assert verdict(looks, outcome(decoys, stdout=b'["files"]')) == "find files of an earlier run"
    assert verdict(notes, outcome(decoys, stdout=b"1")) == ""


@pytest.mark.parametrize(("processes", "survivors"), [(0, 0), (1, 0), (2, 1)])
def test_what_stays_beside_the_next_process_is_counted(
    processes: int, survivors: int, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "SETTLE_S", 0.1)
    code = f"import subprocess\nfor _ in range({processes}): subprocess.Popen(['sleep', '20'])\ninput()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as runner:
        worker = cast(Worker, SimpleNamespace(process=runner.pid))
        while len(descendants_of(runner.pid)) < processes:
            time.sleep(0.01)
        assert loop.run_until_complete(selftest.left_over(worker, set())) == survivors
        os.killpg(runner.pid, signal.SIGKILL)


def test_probes_of_one_guarantee_stay_in_one_worker() -> None:
    plans = spread(ALL, 3)
    assert sum(map(len, plans)) == len(ALL)
    homes = {
        name: {n for n, plan in enumerate(plans) for probe in plan if probe.guarantee == name}
        for name in NAMES
    }
    assert all(len(home) == 1 for home in homes.values())


def test_findings_of_all_workers_are_joined() -> None:
    found = {finding.name: finding for finding in join([[("time", ""), ("disk", "")], [("disk", "fill it")]])}
    assert found["time"].held
    assert found["disk"].reason == "a program could fill it"
    assert found["memory"].reason == "it was not put to the test"


def test_a_proof_survives_its_journey() -> None:
    proof = Proof(findings=(Finding("time", ""), Finding("disk", "x")), walls_missing=("y",), seconds=0.5)
    assert Proof.from_json(json.loads(json.dumps(proof.to_json()))) == proof
    assert proof.gaps == (Finding("disk", "x"),)


def test_unknown_names_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"'netwrok'.*known: time, output"):
        SubprocessExecutor(required=["time", "netwrok"])
    check_names(NAMES)


def test_a_refusal_says_what_was_found_and_what_to_change() -> None:
    said = refusal([Finding("privileges", "a program could act as root")])
    assert "'privileges': a program could act as root (as root, leave drop_user at true" in said
    assert "leave it out of required" in said


def test_a_refusal_gives_a_common_reason_once() -> None:
    said = refusal([Finding("memory", "a runner died"), Finding("output", "a runner died")])
    assert "'memory', 'output': a runner died (" in said
    assert said.count("a runner died") == 1


@pytest.mark.skipif(not ROOT, reason="only root has rights to give up")
def test_a_required_guarantee_that_does_not_hold_ends_the_start(loop: asyncio.AbstractEventLoop) -> None:
    executor = SubprocessExecutor(workers=1, drop_user=False, required=["privileges", "time"])
    with pytest.raises(ExecutorError, match=r"guarantees do not hold here: 'privileges'.*act as root"):
        loop.run_until_complete(executor.start())
    loop.run_until_complete(executor.close())


def test_gaps_are_reported_in_one_warning(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    executor = SubprocessExecutor(workers=1, namespaces=False, required=["time"])
    guarantees.warn_once.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            loop.run_until_complete(executor.start())
            loop.run_until_complete(executor.close())
            loop.run_until_complete(executor.start())
        assert executor.proof is not None
        assert "disk" in {gap.name for gap in executor.proof.gaps}  # no mounts without name spaces
        (said,) = [record.getMessage() for record in caplog.records if "guarantee" in record.getMessage()]
        assert "SubprocessExecutor: the sandbox does not guarantee" in said
        assert "disk (a program could fill 269484032 bytes where 268435456 are allowed" in said
    finally:
        loop.run_until_complete(executor.close())


def test_every_guarantee_says_what_to_change() -> None:
    assert all(each.meaning and each.remedy for each in GUARANTEES)


@pytest.mark.parametrize(("failures", "wanted"), [(1, ""), (2, "its probe failed: it died")])
def test_a_failure_of_the_sandbox_is_repeated_once_before_it_counts(failures: int, wanted: str) -> None:
    lost = [RunnerLostError("it died")] * failures

    class Failing:
        process = 0

        async def start(self) -> None:
            if lost:
                raise lost.pop()

        async def try_out(self, *run: object) -> object:
            return SimpleNamespace()

    probe = Probe(guarantee="time", code="", judge=lambda outcome: "")
    decoys = cast(Decoys, SimpleNamespace(to_json=lambda: b""))
    assert asyncio.run(attempt(cast(Worker, Failing()), probe, decoys)) == wanted
    assert not lost


def test_a_probe_that_did_not_begin_in_time_gets_more(decoys: Decoys) -> None:
    """0.02 s of CPU become 0.5 s; 10 s are the most that any probe has."""

    class Busy:
        process = 0
        given: ClassVar[list[tuple[float, float]]] = []

        async def start(self) -> None:
            pass

        async def try_out(self, code: bytes, stdin: bytes, limits: Limits) -> object:
            self.given.append((limits.cpu_s, limits.wall_s))
            if len(self.given) == 1:
                raise RunnerLostError("it had not begun")
            return SimpleNamespace(stopped="cpu")

    probe = next(each for each in bounds(SETTINGS) if each.guarantee == "time")
    assert asyncio.run(attempt(cast(Worker, Busy()), probe, decoys)) == ""
    assert Busy.given == [(0.02, 10.0), (0.5, 10.0)]
