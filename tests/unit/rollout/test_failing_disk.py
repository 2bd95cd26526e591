"""A disk that is full, or fails: what is lost is nothing, or it is said."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlef_lightning.errors import StoreError
from rlef_lightning.rollout import EpisodeLog, read_episodes
from rlef_lightning.rollout.records import read_lines

from .test_store import opened, sample


def test_a_full_disk_loses_no_finished_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, reserve = os.write, tmp_path / ".reserve-rank0000"

    def full_while_reserved(file: int, data: bytes) -> int:
        if not reserve.exists():
            return write(file, data)
        write(file, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path) as log:
        log.append(sample(0))
        monkeypatch.setattr(os, "write", full_while_reserved)
        match = (
            rf"^cannot write to {log.path}: No space left on device; no finished episode is lost\. Free some "
            r"disk, or move the folder elsewhere and set data\.store\.folder to it; then go on with "
            r"--ckpt_path last$"
        )
        with pytest.raises(StoreError, match=match):
            log.append(sample(1))
        log.append(sample(2))  # one that ended in the same moment
    assert list(read_episodes(log.path)) == [sample(0), sample(1), sample(2)]


def test_a_disk_without_any_room_says_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path) as log:
        log.append(sample(0))
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="the record that was to be written is lost"):
            log.append(sample(1))
        monkeypatch.undo()
    assert list(read_episodes(log.path)) == [sample(0)]


def failing_disk(log: EpisodeLog, failures: int) -> Callable[[int], None]:
    """An fdatasync that fails so often, and after which what was not on the disk is gone from the file."""
    left, sync, on_disk = [failures], os.fdatasync, log.path.stat().st_size

    def fail(file: int) -> None:
        if not left[0]:
            return sync(file)
        left[0] -= 1
        with log.path.open("r+b") as damaged:
            damaged.seek(on_disk)
            damaged.write(b"\0" * (log.path.stat().st_size - on_disk))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    return fail


@pytest.mark.parametrize(
    ("failures", "said"),
    [(1, "no finished episode is lost"), (2, "what ended in the last seconds may not be on the disk")],
)
def test_what_a_failing_disk_has_dropped_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, said: str
) -> None:
    with opened(tmp_path) as log:
        monkeypatch.setattr(os, "fdatasync", failing_disk(log, failures))
        for index in range(3):
            log.append(sample(index))
        with pytest.raises(StoreError, match=rf"Input/output error; {said}"):
            log.finish()
    kinds = [line.record["record"] for line in read_lines(log.path) if line.record]
    assert kinds == ["header"] + (["episode"] * 3 + ["end"]) * (failures == 1)


def test_a_file_at_its_largest_size_is_an_error_that_names_it(tmp_path: Path) -> None:
    """The kernel itself cuts a record short: a limit on the size of files, in a process of its own."""
    code = (
        "import resource, sys\n"
        "from rlef_lightning.rollout import append_file\n"
        "from rlef_lightning.errors import StoreError\n"
        "from pathlib import Path\n"
        "append_file.RESERVE_BYTES = 4096\n"
        "file = append_file.AppendFile(Path(sys.argv[1]), Path(sys.argv[1] + '.reserve'))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "for number in range(1000):\n"
        "    try:\n"
        "        file.append({'number': number, 'filler': 'x' * 70})\n"
        "    except StoreError as error:\n"
        "        sys.exit(f'{number} {error}')\n"
    )
    path = tmp_path / "file.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    number, _, said = done.stderr.partition(" ")
    assert said.startswith(f"cannot write to {path}: File too large;")
    lines = list(read_lines(path))
    assert all(line.whole for line in lines)
    assert [line.record and line.record["number"] for line in lines] == list(range(int(number)))
