"""The trainer's end of a daemon that it has started or joined: requests, replies, signs of life, the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import weakref
from dataclasses import dataclass
from pathlib import Path

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.frames import Message, encode, open_streams, read_frame
from rlef_lightning.execution.guarantees import Proof
from rlef_lightning.execution.scratch import remove_abandoned

FAREWELL_S = 10.0
"""Seconds for the daemon to end its runners and wipe its folders before it is killed."""
REAP_S = 0.1
"""Seconds to see whether a shared daemon that has not taken its leave is dead; others may need it."""
TICKS = 4
"""Looks at a silent daemon before it counts as hung, evenly over the time that it is given."""


class DaemonLostError(Exception):
    """The connection to the daemon has broken; it may be started again."""


@dataclass(slots=True, kw_only=True)
class Reached:
    """A daemon that this process has started or joined."""

    sock: socket.socket
    process: subprocess.Popen[bytes] | None
    """None: another rank has started it."""
    scratch: str = ""
    """The daemon's folder; of one that was joined, empty until it has greeted."""
    shared_at: str = ""
    """Path of the socket of a shared daemon; empty: the daemon is ours alone."""
    pidfd: int = -1
    """A shared daemon that has greeted."""
    given_up: bool = False
    """True when it has not answered for too long."""

    def give_up(self) -> None:
        """Kills a daemon that does not answer, as far as we know it, and keeps others from joining it."""
        self.given_up = True
        if self.shared_at:
            with contextlib.suppress(OSError):
                os.unlink(self.shared_at)
        with contextlib.suppress(OSError):
            if self.process is not None:
                self.process.kill()
            elif self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Connection:
    """A live daemon and the replies that are awaited from it."""

    def __init__(self, reached: Reached, silence_s: float):
        self._reached, self._silence_s = reached, silence_s
        self.pid = 0
        """Process id of the daemon."""
        self.runners: tuple[int, ...] = ()
        """Process ids of the runners at the daemon's start."""
        self.proof = Proof(findings=(), walls_missing=(), seconds=0.0)
        """What the daemon's self-test has found; empty before it has greeted."""
        self._loop, self._owner = asyncio.get_running_loop(), os.getpid()
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._count = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._written = self._unsent = self._taken = 0
        self._heard = self._quiet_ticks = 0
        # Also runs when the trainer exits without close().
        end = leave_daemon if reached.shared_at else end_daemon
        self._end = weakref.finalize(self, end, reached, reached.sock.dup(), self._owner)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The daemon, of which this process must be the one that has started it."""
        assert self._reached.process is not None
        return self._reached.process

    @property
    def scratch(self) -> str:
        """The daemon's folder."""
        return self._reached.scratch

    @property
    def usable(self) -> bool:
        """True while the daemon can be talked to from this process and the running loop."""
        reading = self._reading is not None and not self._reading.done()
        return reading and self._loop is asyncio.get_running_loop() and self._owner == os.getpid()

    async def greet(self, timeout_s: float) -> None:
        """Waits for the daemon's first message.

        Raises ExecutorError when it refuses or stays silent, DaemonLostError when it dies.
        """
        reader, self._writer = await open_streams(self._reached.sock)
        try:
            message, _ = await asyncio.wait_for(read_frame(reader), timeout_s)
        except TimeoutError:
            self._reached.give_up()
            raise ExecutorError(
                f"the sandbox's daemon was not ready after {timeout_s:g} s; raise start_timeout_s"
            ) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise DaemonLostError from None
        if "error" in message:
            raise ExecutorError(message["error"])
        self._take_over(message)
        self._reading = self._loop.create_task(self._read(reader))
        self._send({"ping": True})
        self._loop.call_later(self._silence_s / TICKS, self._tick)

    def _take_over(self, ready: Message) -> None:
        self.pid, self.runners = ready["pid"], tuple(ready["runners"])
        self.proof = Proof.from_json(ready["proof"])
        self._reached.scratch = ready["scratch"]
        if self._reached.shared_at:
            with contextlib.suppress(OSError):
                self._reached.pidfd = os.pidfd_open(self.pid)

    async def ask(self, message: Message) -> Message:
        """One request and its reply; raises DaemonLostError. Cancelling it cancels the runs, too."""
        if not self.usable:
            raise DaemonLostError
        self._count += 1
        number = self._count
        self._waiting[number] = future = self._loop.create_future()
        self._send({**message, "id": number})
        try:
            return await future
        except asyncio.CancelledError:
            self._send({"cancel": number})
            raise
        finally:
            del self._waiting[number]

    def _send(self, message: Message) -> None:
        assert self._writer is not None
        data = encode(message)
        self._written += len(data)
        self._writer.write(data)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    message, _ = await read_frame(reader)
                    self._heard += 1
                    future = self._waiting.get(message.get("id", 0))
                    if future is not None and not future.done():
                        future.set_result(message)
        finally:  # whatever ended the reading, nobody may wait for ever
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(DaemonLostError())

    def _tick(self) -> None:
        """Asks for a sign of life, and kills a daemon that has given none for long.

        Counts looks, not seconds: where the trainer's loop is blocked for minutes, the daemon's answers
        lie in the socket meanwhile, and are read before the next look.
        """
        if self._reading is None or self._reading.done():
            return
        self._quiet_ticks = 0 if self._shows_life() else self._quiet_ticks + 1
        if self._quiet_ticks == TICKS:
            self._reached.give_up()
            self._reading.cancel()
            return
        if self._quiet_ticks <= 1:  # one is enough: a hung daemon's socket must not fill up with them
            self._send({"ping": True})
        self._loop.call_later(self._silence_s / TICKS, self._tick)

    def _shows_life(self) -> bool:
        """True when since the last look the daemon has spoken, or has taken something from a full socket."""
        assert self._writer is not None
        unsent = self._writer.transport.get_write_buffer_size()
        taken = self._written - unsent
        alive = self._heard > 0 or (self._unsent > 0 and taken > self._taken)
        self._unsent, self._taken, self._heard = unsent, taken, 0
        return alive

    async def close(self) -> None:
        """Leaves the daemon, which ends if it has no other client; without blocking the loop."""
        await asyncio.to_thread(self._end)
        if self._writer is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._writer.close)

    def close_now(self) -> None:
        """As `close`, but blocks; needs no event loop."""
        self._end()


def end_daemon(reached: Reached, sock: socket.socket, owner: int) -> None:
    """Hangs up, and waits until the daemon has ended its runners and wiped its folders."""
    process = reached.process
    if os.getpid() != owner or process is None:
        return  # a forked copy of the trainer: the daemon is not its own
    with sock, contextlib.suppress(OSError):  # the shutdown is seen whoever else holds a copy of the socket
        sock.shutdown(socket.SHUT_RDWR)
    try:
        process.wait(FAREWELL_S)
    except subprocess.TimeoutExpired:
        process.kill()  # the runners see it and end themselves
        process.wait()
    shutil.rmtree(reached.scratch, ignore_errors=True)  # a daemon that was killed could not


def leave_daemon(reached: Reached, sock: socket.socket, owner: int) -> None:
    """Leaves a shared daemon, and waits until it has ended our runs, and itself if we were the last."""
    if os.getpid() != owner:
        return
    with sock, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)  # this half only: we leave on purpose, and wait
        hangup = select.poll()
        hangup.register(sock, 0)
        hangup.poll(1000 * (REAP_S if reached.given_up else FAREWELL_S))
        sock.shutdown(socket.SHUT_RDWR)
    ending = not os.path.exists(reached.scratch)  # the last thing that it does
    dead = has_ended(reached, FAREWELL_S if ending else REAP_S)
    if reached.pidfd >= 0:
        os.close(reached.pidfd)
    with contextlib.suppress(OSError):  # its daemon lives, or has removed it
        if dead and reached.process is not None:
            shutil.rmtree(reached.scratch)
        elif reached.scratch:
            remove_abandoned(Path(reached.scratch))


def has_ended(reached: Reached, timeout_s: float) -> bool:
    """True when a shared daemon ends in time; reaps it if it is our child."""
    if reached.process is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            reached.process.wait(timeout_s)
        return reached.process.returncode is not None
    if reached.pidfd < 0:
        return False
    end = select.poll()
    end.register(reached.pidfd, select.POLLIN)
    return bool(end.poll(1000 * timeout_s))
