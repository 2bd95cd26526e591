"""Work that may hang in foreign code, where no exception reaches it -> an error, and the process's end."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.5
"""Seconds between two looks."""


def end_process(message: str) -> None:
    """For a thread that sees the main one hang: says so and where, and ends the process."""
    print(f"rlef: error: {message}", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.__stderr__ or 2)
    os._exit(1)


class Guard:
    """A thread that looks at how long a piece of work takes. A context manager; the work is within `work`.

    Args:
        limit_s: Longest time of one piece of work; None: nothing is looked at.
        describe: What hangs, and the setting of the limit, for the message.
        give_up: Called from the thread with the message; None: `end_process`.
    """

    def __init__(
        self, limit_s: float | None, describe: Callable[[], str], give_up: Callable[[str], None] | None = None
    ) -> None:
        self._limit, self._describe, self._give_up = limit_s, describe, give_up or end_process
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def work(self) -> Iterator[None]:
        """One piece of work."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def _look(self, limit_s: float) -> None:
        while not self._closed.wait(min(LOOK_S, limit_s)):
            since = self._since
            if since is not None and time.monotonic() - since > limit_s:
                self._give_up(
                    f"{self._describe()}; the run is ended, as nothing reaches it there. Look at the device "
                    "it runs on; what is stored is kept: go on with --ckpt_path last"
                )
                return

    def __enter__(self) -> Guard:
        if self._limit is not None:
            self._thread = threading.Thread(target=self._look, args=(self._limit,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
