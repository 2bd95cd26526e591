"""Ranks of a run as threads of one process: what they say to each other, without a process group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rlef_lightning.errors import RankError
from rlef_lightning.ranks import Ranks

LIMIT_S = 60.0


class Meeting:
    """Where `size` ranks meet."""

    def __init__(self, size: int) -> None:
        self.parts: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=LIMIT_S)
        self.lock = threading.Lock()
        self.numbers: dict[int, int] = {}


class ThreadRanks(Ranks):
    """Ranks whose process is this thread; one that ends breaks the meeting for the others."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self._meeting, self._counters = rank, len(meeting.parts), meeting, 0

    def gather(self, part: Any) -> list[Any]:
        self._meeting.parts[self.rank] = part
        try:
            self._meeting.barrier.wait()
            parts = list(self._meeting.parts)
            self._meeting.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise RankError("one of them has ended") from error
        return parts

    def counter(self) -> Any:
        self._counters += 1
        return ThreadCounter(self._meeting, self._counters)


class ThreadCounter:
    """A number that all threads count up."""

    def __init__(self, meeting: Meeting, key: int) -> None:
        self._meeting, self._key = meeting, key

    def add(self, count: int) -> int:
        with self._meeting.lock:
            number = self._meeting.numbers.get(self._key, 0) + count
            self._meeting.numbers[self._key] = number
        return number

    def close(self) -> None:
        self.add(1 << 40)


def on_ranks(size: int, work: Callable[[ThreadRanks], Any]) -> list[Any]:
    """Each rank's result, or the exception that it ended with."""

    def one(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, meeting))
        except BaseException as error:
            results[rank] = error
            meeting.barrier.abort()

    meeting, results = Meeting(size), [None] * size
    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
