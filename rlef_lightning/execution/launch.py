"""settings -> a daemon: one of our own over a pair of sockets, or the one that the ranks of a node share."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import meeting
from rlef_lightning.execution.connection import Reached
from rlef_lightning.execution.scratch import new_scratch
from rlef_lightning.execution.settings import Settings

MakeSettings = Callable[[str], Settings]
"""The settings of a daemon that works in the given folder."""
LOOK_AGAIN_S = 0.01
"""Seconds between two attempts to lock the folder where ranks meet; it is locked for a few milliseconds."""
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


def spawn(settings: Settings, sock: socket.socket, folder: str = "") -> subprocess.Popen[bytes]:
    """Starts a daemon in a session of its own; `folder` is where its clients meet, if it is shared.

    Without a preexec function: a trainer of many gigabytes would be copied for it (measured: 170 ms).
    """
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": _PACKAGE_ROOT}
    command = [sys.executable, "-s", "-P", "-m", "rlef_lightning.execution.daemon"]
    return subprocess.Popen(
        [*command, str(sock.fileno()), settings.to_json(), folder], pass_fds=[sock.fileno()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip


def start_private(make_settings: MakeSettings) -> Reached:
    """Starts a daemon that ends with this process; raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process, scratch = spawn_in_new_folder(make_settings, theirs)
        except BaseException:
            ours.close()
            raise
    return Reached(sock=ours, process=process, scratch=scratch)


async def reach_shared(folder: str, make_settings: MakeSettings, timeout_s: float) -> Reached:
    """Joins the daemon of the node, or starts it, whoever is first; raises OSError or ExecutorError."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    while True:
        try:
            with meeting.held(folder) as descriptor:
                return join_or_start(descriptor, folder, make_settings)
        except meeting.BusyError:
            if clock() > deadline:
                raise ExecutorError(
                    f"another process held {folder}, where the ranks of this node meet, for {timeout_s:g} s;"
                    " end it if it hangs, or raise start_timeout_s"
                ) from None
            await asyncio.sleep(LOOK_AGAIN_S)


def join_or_start(descriptor: int, folder: str, make_settings: MakeSettings) -> Reached:
    """A connection to the daemon of a held folder; one that is started finds it waiting at its door."""
    if joined := meeting.join(descriptor):
        name, sock = joined
        return Reached(sock=sock, process=None, shared_at=os.path.join(folder, name))
    name, listener = meeting.listen(descriptor)
    with listener:
        try:
            sock = meeting.connect(descriptor, name)
            process, scratch = spawn_in_new_folder(make_settings, listener, folder)
        except BaseException:
            meeting.remove(descriptor, name)
            raise
    return Reached(sock=sock, process=process, scratch=scratch, shared_at=os.path.join(folder, name))


def spawn_in_new_folder(
    make_settings: MakeSettings, sock: socket.socket, meeting_folder: str = ""
) -> tuple[subprocess.Popen[bytes], str]:
    """As `spawn`, also the new folder for its work, which does not outlive a failure."""
    scratch = new_scratch()
    try:
        settings = make_settings(scratch)
        settings = replace(settings, owner_pid=0) if meeting_folder else settings
        return spawn(settings, sock, meeting_folder), scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
