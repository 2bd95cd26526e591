"""What lies outside of the sandbox for probes to reach for, and whether one of them did."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
from pathlib import Path

OPEN_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/")
"""Folders that a program might write to, beside the daemon's own."""


class Decoys:
    """A secret file, an open folder and listening sockets, made by the daemon for its self-test.

    Args:
        folder: A folder that exists; the files of the decoys go below it.
        owner: Process id of the trainer, or 0.
    """

    def __init__(self, folder: str, owner: int):
        self.token = f"rlef-probe-{secrets.token_hex(8)}"
        self._folder = Path(folder) / "decoys"
        self._folder.mkdir()
        self._secret, self._open = self._folder / "secret", self._folder / "open"
        self._secret.write_text(self.token)
        self._secret.chmod(0o644)
        self._open.mkdir()
        self._folder.chmod(0o755)
        self._open.chmod(0o777)  # mkdir's own mode is cut by the umask
        self._places = list(dict.fromkeys((str(self._open), tempfile.gettempdir(), *OPEN_FOLDERS)))
        self._sockets = self._listen()
        self._owner = owner or os.getpid()
        self.environment = _environment(self._owner)
        """The trainer's variables, each as NAME=value."""

    def to_json(self) -> bytes:
        """What probes are told."""
        names = {name: one.getsockname() for name, one in self._sockets.items()}
        return json.dumps({
            "token": self.token, "secret": str(self._secret), "places": self._places,
            "tcp": names["TCP"][1], "udp": names["UDP"][1], "path": str(self._folder / "socket"),
            "abstract": self.token, "daemon": os.getpid(), "trainer": self._owner,
            "home": os.path.expanduser("~"), "package": str(Path(__file__).parents[3]),
        }).encode()  # fmt: skip

    def touched(self) -> list[str]:
        """Words for whatever has arrived or changed outside since the last call; undoes it."""
        return [*self._arrivals(), *self._files()]

    def close(self) -> None:
        """Stops listening; the files go with the daemon's folder."""
        for one in self._sockets.values():
            one.close()

    def _listen(self) -> dict[str, socket.socket]:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        path, abstract = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
        folder = os.open(self._folder, os.O_PATH)
        path.bind(f"/proc/self/fd/{folder}/socket")  # the whole path may be longer than an address
        os.close(folder)
        (self._folder / "socket").chmod(0o777)
        abstract.bind(f"\0{self.token}")
        for one in (path, abstract):
            one.listen()
        found = {"TCP": tcp, "UDP": udp, "a socket with a path": path, "an abstract socket": abstract}
        for one in found.values():
            one.setblocking(False)
        return found

    def _arrivals(self) -> list[str]:
        """Names of the sockets at which something has arrived."""
        arrived = []
        for name, one in self._sockets.items():
            with contextlib.suppress(OSError):
                one.recv(1) if name == "UDP" else one.accept()[0].close()
                arrived.append(f"reach {name} of the machine")
        return arrived

    def _files(self) -> list[str]:
        """Names of the folders in which a probe has left a file; it is removed."""
        left = []
        for place in self._places:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(place, self.token))
                left.append(f"leave a file in {place}")
        return left


def _environment(pid: int) -> frozenset[str]:
    """Of a process; empty for one whose environment is closed to us."""
    with contextlib.suppress(OSError):
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        return frozenset(item for item in raw.split("\0") if item)
    return frozenset()
