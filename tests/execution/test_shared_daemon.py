"""One daemon for the ranks of a node: elected, shared fairly, replaced when lost, gone with the last rank."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ranks import Rank, open_folder, until
from sandboxing import FORKED, LIMITS, RULE, alive, children

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import SubprocessExecutor, meeting
from rlef_lightning.execution.job import job_name, meeting_folder
from rlef_lightning.types import TestCase, TestResult

pytestmark = pytest.mark.slow

Start = Callable[..., list[Rank]]
TORCHRUN = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "run-1"}
SEVEN = ("print(7)", [("", "7")])
SLEEP = ("import time\ntime.sleep(1)\nprint(7)", [("", "7")])
NAP = ("import time\ntime.sleep(0.2)\nprint(7)", [("", "7")])
ACCEPTED = ["accepted"]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the test's own for everything temporary; programs can pass through it."""
    with tempfile.TemporaryDirectory(prefix="rlef-test-") as name:
        folder = open_folder(Path(name) / "runtime")
        folder.parent.chmod(0o711)
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield folder


@pytest.fixture
def start(runtime: Path) -> Iterator[Start]:
    """Starts ranks 0 to n-1 of one job, which have not yet reached their daemon."""
    ranks: list[Rank] = []

    def start(number: int, **settings: object) -> list[Rank]:
        sizes = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
        started = [
            Rank({**TORCHRUN, **sizes, "LOCAL_RANK": str(rank)}, {"workers": 2, "retries": 1, **settings})
            for rank in range(number)
        ]
        ranks.extend(started)
        return started

    yield start
    for rank in ranks:
        rank.end()
    assert until(lambda: not any(runtime.iterdir())), list(runtime.iterdir())  # nothing outlives the ranks


def started_together(ranks: list[Rank]) -> int:
    """The one daemon of all ranks, which start at the same time."""
    numbers = [rank.ask("start") for rank in ranks]
    found = [rank.reply(number) for rank, number in zip(ranks, numbers, strict=True)]
    assert all(each == found[0] for each in found)
    return int(found[0]["daemon"])


@pytest.mark.parametrize("number", [2, 4])
def test_ranks_elect_one_daemon_which_ends_with_the_last(start: Start, runtime: Path, number: int) -> None:
    ranks = start(number)
    daemon = started_together(ranks)
    assert len(list(runtime.glob("rlef-executor-*"))) == 1
    assert until(
        lambda: len(children(daemon)) == 6
    )  # the workers, each with template and spare, are the node's
    for rank in ranks:
        assert rank.do("judge", *SEVEN) == ACCEPTED
    for rank in ranks[:-1]:  # the one that started the daemon is among them, or is the last
        rank.do("close")
        assert ranks[-1].do("judge", *SEVEN) == ACCEPTED
        assert ranks[-1].do("start")["daemon"] == daemon
    ranks[-1].do("close")
    assert not alive(daemon)
    assert not any(runtime.iterdir())


def test_a_closed_executor_starts_again(start: Start) -> None:
    (one, two) = start(2)
    daemon = started_together([one, two])
    one.do("close")
    assert one.do("start")["daemon"] == daemon
    one.do("close")
    two.do("close")
    assert one.do("judge", *SEVEN) == ACCEPTED
    assert one.do("start")["daemon"] != daemon


def test_a_rank_uses_the_workers_that_others_leave_idle(start: Start) -> None:
    ranks = start(2)
    daemon = started_together(ranks)
    ranks[1].ask("judge", FORKED + "time.sleep(40)", [("", ""), ("", "")])
    assert until(
        lambda: len(children(daemon)) == 8
    )  # 2 runners, their templates, 2 programs of 2 processes: all of this rank


def test_a_long_queue_of_one_rank_does_not_hold_up_another(start: Start) -> None:
    greedy, modest = ranks = start(2)
    started_together(ranks)
    queued = [greedy.ask("judge", *NAP) for _ in range(400)]  # 40 s with two workers
    greedy.reply(queued[0])
    assert modest.do("judge", *SEVEN) == ACCEPTED
    greedy.do("start")  # reads all replies up to here
    assert not greedy.replied(queued[-1])


def test_a_killed_rank_takes_its_runs_along_and_nothing_else(start: Start) -> None:
    killed, other = ranks = start(2)
    daemon = started_together(ranks)
    killed.ask("judge", FORKED + "time.sleep(40)", [("", "")] * 10)
    assert until(lambda: len(children(daemon)) == 8)
    before = children(daemon)
    killed.signal(signal.SIGKILL)
    assert other.do("judge", *SEVEN) == ACCEPTED  # both workers were taken, for 40 s
    assert other.do("start")["daemon"] == daemon
    assert until(lambda: not any(alive(pid) for pid in before))  # the runners, too, were in the middle of it
    assert until(lambda: len(children(daemon)) <= 6)  # what was queued does not run


def test_a_killed_rank_is_missed_although_a_forked_process_holds_its_socket(start: Start) -> None:
    (rank,) = start(1, share_as="forked")
    daemon = started_together([rank])
    forked = rank.do("fork")
    try:
        rank.signal(signal.SIGKILL)
        assert until(lambda: not alive(daemon))
        assert alive(forked)
    finally:
        os.kill(forked, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_ranks(start: Start, runtime: Path, number: signal.Signals) -> None:
    ranks = start(2)
    daemon = started_together(ranks)
    for rank in ranks:
        rank.ask("judge", "import os, time\nos.fork()\ntime.sleep(40)", [("", "")])
    assert until(lambda: len(children(daemon)) == 8)  # 2 runners, their templates, 2 programs of 2 processes
    pids = {daemon, *children(daemon)}
    for rank in ranks:
        rank.signal(number)
    assert until(lambda: not any(alive(pid) for pid in pids))
    assert until(lambda: not any(runtime.iterdir()))


def test_a_killed_daemon_is_replaced_by_one_for_all(start: Start) -> None:
    ranks = start(4)
    daemon = started_together(ranks)
    numbers = [rank.ask("judge", FORKED + SLEEP[0], SLEEP[1]) for rank in ranks]
    assert until(lambda: len(children(daemon)) == 8)
    os.kill(daemon, signal.SIGKILL)
    assert [rank.reply(number) for rank, number in zip(ranks, numbers, strict=True)] == [ACCEPTED] * 4
    assert started_together(ranks) != daemon


def test_a_daemon_that_keeps_dying_is_an_error_in_every_rank(start: Start) -> None:
    ranks = start(2)
    daemon = started_together(ranks)
    numbers = [rank.ask("judge", FORKED + "time.sleep(40)", [("", "")]) for rank in ranks]
    for _ in range(2):  # retries = 1
        assert until(lambda now=daemon: len(children(now)) == 8)
        os.kill(daemon, signal.SIGKILL)
        assert until(lambda now=daemon: not alive(now))
        daemon = started_together(ranks)
    for rank, number in zip(ranks, numbers, strict=True):
        with pytest.raises(RuntimeError, match="died 2 times"):
            rank.reply(number)
        assert rank.do("judge", *SEVEN) == ACCEPTED


def test_a_hung_daemon_is_replaced(start: Start) -> None:
    ranks = start(2, silence_s=2.0)
    daemon = started_together(ranks)
    numbers = [rank.ask("judge", *SLEEP) for rank in ranks]
    os.kill(daemon, signal.SIGSTOP)
    assert [rank.reply(number) for rank, number in zip(ranks, numbers, strict=True)] == [ACCEPTED] * 2
    assert started_together(ranks) != daemon
    assert until(lambda: not alive(daemon))


def test_a_daemon_that_hangs_before_it_greets_is_an_error_and_then_replaced(start: Start) -> None:
    (one, two) = start(2, start_timeout_s=3.0)
    daemon = started_together([one])
    os.kill(daemon, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match="not ready after 3 s; raise start_timeout_s"):
        two.do("start")
    assert two.do("judge", *SEVEN) == ACCEPTED
    os.kill(daemon, signal.SIGCONT)
    assert one.do("judge", *SEVEN) == ACCEPTED  # it was not hung for long enough to be given up


def test_what_killed_daemons_leave_is_swept(start: Start, runtime: Path) -> None:
    (lost,) = start(1, share_as="lost")
    daemon = started_together([lost])
    os.kill(daemon, signal.SIGSTOP)
    lost.signal(signal.SIGKILL)
    os.kill(daemon, signal.SIGKILL)
    assert until(lambda: not alive(daemon))
    left = set(runtime.iterdir())
    assert len(left) == 2
    (other,) = start(1, share_as="other")
    scratch, socket_path = (Path(other.do("start")[name]) for name in ("scratch", "socket"))
    assert set(runtime.iterdir()) == {scratch, socket_path.parent}


def test_names_and_settings_tell_daemons_apart(start: Start) -> None:
    ranks = [
        *start(1, share_as="one"), *start(1, share_as="one"), *start(1, share_as="two"),
        *start(1, share_as="one", report_chars=7), *start(1, share_as=""), *start(1, share_as=""),
    ]  # fmt: skip
    daemons = [rank.do("start")["daemon"] for rank in ranks]
    assert daemons[0] == daemons[1]
    assert len(set(daemons)) == 5


def own_executor() -> SubprocessExecutor:
    return SubprocessExecutor(namespaces=False, workers=1, share_as="mine", start_timeout_s=5.0)


def own_folder(mode: int) -> Path:
    """The folder in which `own_executor` meets others, made beforehand."""
    folder = Path(meeting_folder("mine", own_executor()._settings("")))
    folder.mkdir()
    folder.chmod(mode)
    return folder


def start_own() -> None:
    executor = own_executor()
    try:
        asyncio.run(executor.start())
    finally:
        executor.close_now()


@pytest.mark.parametrize("what", ["mode", "link", "file"])
def test_a_folder_that_others_could_use_is_refused(what: str, runtime: Path) -> None:
    folder = own_folder(0o750 if what == "mode" else 0o700)
    if what == "link":
        folder.rename(runtime / "elsewhere")
        folder.symlink_to(runtime / "elsewhere")
    elif what == "file":
        folder.rmdir()
        folder.write_text("")
    with pytest.raises(ExecutorError, match=f"meet in {folder}, but it is .* mode 0700"):
        start_own()
    assert not list(runtime.glob("rlef-executor-*"))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
@pytest.mark.usefixtures("runtime")
def test_another_users_folder_is_refused() -> None:
    os.chown(own_folder(0o700), 65534, 65534)
    with pytest.raises(ExecutorError, match="of user 65534"):
        start_own()


@pytest.mark.usefixtures("runtime")
def test_a_folder_that_somebody_keeps_locked_is_an_error() -> None:
    with (
        meeting.held(str(own_folder(0o700))),
        pytest.raises(ExecutorError, match=r"held .* for 5 s; end it if it hangs, or raise start_timeout_s"),
    ):
        start_own()


@pytest.mark.usefixtures("runtime")
def test_programs_are_no_clients() -> None:
    knock = """
import socket
try:
    sock = socket.socket(socket.AF_UNIX)
except PermissionError:
    print("b''")  # not even a socket
else:
    sock.connect(input())
    sock.settimeout(20)
    print(sock.recv(1))
"""

    async def main() -> TestResult:
        executor = SubprocessExecutor(
            namespaces=False, workers=1, share_as="mine", drop_user=False, required=[]
        )
        await executor.start()
        connection = executor._connection
        assert connection is not None
        path = connection._reached.shared_at
        with socket.socket(socket.AF_UNIX) as sock:  # the test itself may
            sock.connect(path)
            assert len(await asyncio.to_thread(sock.recv, 1)) == 1
        report = await executor.judge(
            knock, [TestCase(stdin=path, expected_stdout="b''")],
            limits=LIMITS, rule=RULE, stop_at_first_failure=True,
        )  # fmt: skip
        await executor.close()
        return report.results[0]

    result = asyncio.run(main())
    assert result.passed, result


def test_a_path_longer_than_a_sockets_address_will_do(
    start: Start, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime / ("d" * 120)
    deep.mkdir()
    deep.chmod(0o711)
    monkeypatch.setenv("TMPDIR", str(deep))
    ranks = start(2)
    started_together(ranks)
    assert ranks[1].do("judge", *SEVEN) == ACCEPTED
    for rank in ranks:
        rank.do("close")
    deep.rmdir()


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, None),
        ({"WORLD_SIZE": "4", "MASTER_PORT": "1"}, None),  # no rank
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "ranks:a:1:"),
        ({**TORCHRUN, "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "ranks:127.0.0.1:29500:run-1"),
        ({**TORCHRUN, "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, None),  # one a node
        ({**TORCHRUN, "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, None),
        ({**TORCHRUN, "LOCAL_RANK": "0"}, None),
        ({**TORCHRUN, "LOCAL_RANK": "0", "WORLD_SIZE": "many"}, None),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, None),  # nothing that names the job
        ({"SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, "slurm:7:0"),
        ({"SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, None),
        ({"SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}, None),  # the batch script itself
    ],
)
def test_the_environment_names_the_job(environment: dict[str, str], name: str | None) -> None:
    assert job_name(environment) == name
