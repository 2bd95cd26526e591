"""Who may talk to the daemon, and for how long it lives: until its last client has left.

A client leaves by closing its sending half; then it waits until its runs have ended, and the daemon, too, if
it was the last. A connection that breaks altogether is a client that died. One that was killed may have left
copies of its socket to forked processes, so the process itself is watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import meeting
from rlef_lightning.execution.frames import open_streams
from rlef_lightning.execution.inside.kernel import descendants_of

LINGER_S = 2.0
"""Seconds that a shared daemon outlives its last client if that one died: a rank may be started again."""
LOCK_S = 5.0
"""Seconds to wait for the meeting folder's lock at the end; then whoever hangs with it is passed over."""
PAUSE_S = 0.1
"""Seconds until the next attempt to let a client in when descriptors have run out, or to get the lock."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class OpenDoor:
    """The door of a shared daemon. `listener` stands in the meeting folder; `serve` ends with its client."""

    def __init__(self, listener: socket.socket, folder: str, serve: Serve):
        self._listener, self._folder, self._serve = listener, folder, serve
        self._name = os.path.basename(listener.getsockname())
        self._clients: set[asyncio.Task[None]] = set()
        self._leavers: list[asyncio.StreamWriter] = []
        """Clients that wait to see the daemon end."""
        self._broke_off = False
        """True when the last client that left has died."""
        listener.setblocking(False)

    async def until_empty(self) -> None:
        """Serves clients until the last has left, and takes the socket away."""
        try:
            self._open()
            while not await self._closed():
                await self._until_nobody()
        finally:
            for task in self._clients:
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            self._take_away()

    def _open(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._let_in_all)
        self._let_in_all()

    def _let_in_all(self) -> None:
        """Lets in those who wait at the door now."""
        try:
            while True:
                self._let_in(self._listener.accept()[0])
        except BlockingIOError:
            return
        except OSError:  # no descriptor is left: they stay in the line, and the reader would spin
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_later(PAUSE_S, self._open)

    def _let_in(self, sock: socket.socket) -> None:
        """Serves a process of the same user that is not one of the programs; hangs up on others."""
        try:
            pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.geteuid() or pid in descendants_of(os.getpid()):
                raise PermissionError
            pidfd = os.pidfd_open(pid)
        except OSError:  # or it has died, or no descriptor is left
            sock.close()
            return
        self._clients.add(asyncio.create_task(self._attend(sock, pidfd)))

    async def _attend(self, sock: socket.socket, pidfd: int) -> None:
        """One client, from its coming to its end."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        reader, writer = await open_streams(sock)
        loop.add_reader(pidfd, writer.transport.abort)
        try:
            await self._serve(reader, writer)
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self._clients.discard(task)
            self._broke_off = hung_up(writer)
            if self._broke_off or self._clients:
                writer.transport.abort()
            else:
                self._leavers.append(writer)

    async def _until_nobody(self) -> None:
        """Returns when no client is left, and none that has died has come back."""
        while self._clients:
            await asyncio.wait(self._clients)
        if self._broke_off:
            await asyncio.sleep(LINGER_S)

    async def _closed(self) -> bool:
        """True once the socket has been taken away with nobody waiting at the door."""
        for _ in range(round(LOCK_S / PAUSE_S)):
            if self._clients:
                break
            try:
                return self._closed_under_lock()
            except (meeting.BusyError, ExecutorError, OSError):
                await asyncio.sleep(PAUSE_S)
        while self._clients and self._leavers:  # they need not wait for those who came
            self._leavers.pop().transport.abort()
        return not self._clients

    def _closed_under_lock(self) -> bool:
        """As `_closed`, while nobody can come; raises BusyError, OSError or ExecutorError."""
        with meeting.held(self._folder, create=False) as descriptor:
            self._let_in_all()
            if not self._clients:
                meeting.remove(descriptor, self._name)
        return not self._clients

    def _take_away(self) -> None:
        """Whoever still waits at the door starts another daemon."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, self._name))
        with (
            contextlib.suppress(meeting.BusyError, ExecutorError, OSError),
            meeting.held(self._folder, create=False),
        ):
            pass  # that removes the folder


def hung_up(writer: asyncio.StreamWriter) -> bool:
    """True when the other end is gone altogether, and not just done with sending."""
    descriptor = writer.get_extra_info("socket").fileno()
    poll = select.poll()
    if descriptor >= 0:
        poll.register(descriptor, 0)
    return descriptor < 0 or bool(poll.poll(0))
