"""Signs of life: a daemon that answers is never given up, one that hangs always is. The daemon is made up."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from rlef_lightning.execution.connection import Connection, DaemonLostError, Reached
from rlef_lightning.execution.frames import Message, encode, read_frame

pytestmark = pytest.mark.slow

PROOF = {"findings": [], "walls_missing": [], "seconds": 0.0}
READY = {"ready": True, "pid": 0, "runners": [], "scratch": "", "proof": PROOF}
SILENCE_S = 0.4
Daemon = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Exchange:
    """A connection to a made-up daemon, which has greeted."""

    def __init__(self, daemon: Daemon):
        self.daemon = daemon

    async def __aenter__(self) -> Connection:
        ours, theirs = socket.socketpair()
        reader, self.writer = await asyncio.open_unix_connection(sock=theirs)
        self.writer.write(encode(READY))
        reached = Reached(sock=ours, process=None, shared_at="/nonexistent/socket")
        self.connection = Connection(reached, SILENCE_S)
        await self.connection.greet(5.0)
        self.task = asyncio.ensure_future(self.daemon(reader, self.writer))
        return self.connection

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        self.writer.close()
        await self.connection.close()


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers pings; everything else after a while."""
    while True:
        message, _ = await read_frame(reader)
        if "ping" in message:
            writer.write(encode({"pong": True}))
        else:
            asyncio.get_running_loop().call_later(5 * SILENCE_S, writer.write, encode({"id": message["id"]}))


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers nothing and reads nothing."""
    await asyncio.sleep(60)


async def takes_its_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Is busy with a huge message, of which it takes a bit now and then; answers it in the end."""
    taken = 0
    while taken < 6_000_000:
        taken += len(await reader.read(300_000))
        await asyncio.sleep(SILENCE_S / 8)
    writer.write(encode({"id": 1}))


def asked(daemon: Daemon, message: Message, blocked_s: float = 0.0) -> Message:
    """The reply to one request, whose client's loop is blocked now and then."""

    async def main() -> Message:
        async with Exchange(daemon) as connection:
            task = asyncio.create_task(connection.ask(message))
            for _ in range(3 if blocked_s else 0):
                await asyncio.sleep(SILENCE_S / 10)
                time.sleep(blocked_s)  # noqa: ASYNC251  # as an engine does
            return await asyncio.wait_for(task, 60)

    return asyncio.run(main())


def test_a_slow_answer_is_no_silence() -> None:
    assert asked(answers, {"code": ""}) == {"id": 1}


def test_a_client_that_is_blocked_for_long_blames_nobody_else() -> None:
    assert asked(answers, {"code": ""}, blocked_s=3 * SILENCE_S) == {"id": 1}


def test_a_daemon_that_hangs_is_given_up() -> None:
    with pytest.raises(DaemonLostError):
        asked(hangs, {"code": ""})


def test_a_daemon_that_hangs_is_given_up_though_much_is_unsent() -> None:
    with pytest.raises(DaemonLostError):
        asked(hangs, {"code": "x" * 6_000_000})


def test_a_daemon_that_reads_a_huge_request_is_alive() -> None:
    assert asked(takes_its_time, {"code": "x" * 6_000_000}) == {"id": 1}


def test_a_connection_that_was_given_up_is_not_used_again() -> None:
    async def main() -> None:
        async with Exchange(hangs) as connection:
            with pytest.raises(DaemonLostError):
                await connection.ask({})
            assert not connection.usable
            with pytest.raises(DaemonLostError):
                await connection.ask({})

    asyncio.run(main())
