"""Processes of one run -> what each of them gets to know of the others.

Objects are gathered over a gloo group of its own: the wait for slow episodes has a time-out of its own, and a
process that died is noticed by its broken connection, on a GPU too. Tensors of training are not its
business: FSDP2 moves those.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from rlef_lightning.errors import RankError

T = TypeVar("T")

_CLOSED = 1 << 40
"""Added to a counter, more than any collection has seats: nothing is handed out any more."""


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Ranks:
    """The processes of this run, seen from one of them. All of them must make the same calls.

    Args:
        timeout_s: How long a rank waits for the others before it gives up.
        alone: True: one process, whatever process group there may be.

    Raises:
        RankError: the others did not come.
    """

    def __init__(self, timeout_s: float = 1800.0, *, alone: bool = False) -> None:
        self.size = 1 if alone else world_size()
        self.rank = dist.get_rank() if self.size > 1 else 0
        self.timeout_s = timeout_s
        self._store: dist.TCPStore | None = None
        self._counters = 0
        if self.size > 1:
            self._meet()

    def _meet(self) -> None:
        limit = timedelta(seconds=self.timeout_s)
        # Every rank can reach the host of rank 0 under this name: the process group came about by it.
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        self._group = dist.new_group(backend="gloo", timeout=limit)
        if self.rank == 0:
            self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=limit)
        (port, *_) = self.gather(0 if self._store is None else self._store.port)
        if self._store is None:
            self._store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=limit)

    def gather(self, part: T) -> list[T]:
        """Every rank's part, in the order of the ranks.

        Raises:
            RankError: a rank has ended, or did not come within `timeout_s`.
        """
        if self.size == 1:
            return [part]
        parts: list[T | None] = [None] * self.size
        try:
            dist.all_gather_object(parts, part, group=self._group)
        except RuntimeError as error:
            raise RankError(
                f"rank {self.rank} waited for the other {self.size - 1}: one of them has ended, or did not "
                f"come within data.rank_timeout_s={self.timeout_s:g}; its messages say why ({_short(error)})"
            ) from error
        return parts  # type: ignore[return-value]

    def together(
        self, work: Callable[[], T], counter: Counter | None = None, *, tell: bool = True
    ) -> list[T]:
        """Each rank's work at the same time, and everyone's result: all of them succeed, or all of them fail.

        Args:
            work: This rank's part.
            counter: Hands out the work: closed after a failure, so that the others finish soon.
            tell: After a failure here, wait until the others have come and tell them why. Not where another
                rank may stand in the middle of a computation with this one, which only this one's end ends.

        Raises:
            RankError: the work of another rank failed; its reason is quoted. A failure of this rank's own
                work is raised as it is, after the others have been told.
        """
        try:
            outcome: tuple[T | None, str] = (work(), "")
        except Exception as error:
            if self.size > 1:
                self._tell_failure(error, counter, tell=tell)
            raise
        results = self.gather(outcome)
        failures = [f"rank {rank} failed: {reason}" for rank, (_, reason) in enumerate(results) if reason]
        if failures:
            raise RankError("; ".join(failures))
        return [result for result, _ in results]  # type: ignore[misc]

    def _tell_failure(self, error: Exception, counter: Counter | None, *, tell: bool) -> None:
        # Where the others are gone, too, this rank's own failure is the one to report.
        with contextlib.suppress(RankError):
            if counter is not None:
                counter.close()
            if tell:
                self.gather((None, f"{type(error).__name__}: {error}"))

    def counter(self) -> Counter:
        """A new counter, from 0, that all ranks have in common."""
        self._counters += 1
        return Counter(self._store, f"counter/{self._counters}", self.rank)

    def largest(self, number: float) -> float:
        """The largest of the ranks' numbers."""
        return max(self.gather(number))

    def any(self, holds: bool) -> bool:
        """Whether it is true on one rank at least."""
        return max(self.gather(holds))


class Counter:
    """A number that all ranks count up; no two of them ever get the same."""

    def __init__(self, store: dist.Store | None, key: str, rank: int) -> None:
        self._store, self._key, self._rank = store, key, rank
        self._alone = 0

    def add(self, count: int) -> int:
        """Add, and return the new number.

        Raises:
            RankError: rank 0, which keeps the number, has ended.
        """
        if self._store is None:
            self._alone += count
            return self._alone
        try:
            return self._store.add(self._key, count)
        except (RuntimeError, dist.DistError) as error:
            raise RankError(
                f"rank {self._rank} asked rank 0 for the next problem, and it has ended: {_short(error)}"
            ) from error

    def close(self) -> None:
        """Hand out nothing any more."""
        self.add(_CLOSED)


def summed(numbers: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The sum of each number over all ranks; every rank must ask for the same names."""
    if world_size() == 1:
        return dict(numbers)
    totals = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return dict(zip(numbers, totals.tolist(), strict=True))


def _short(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
