"""Two "nodes" on one machine: network namespaces with addresses, host names and mounts of their own, joined
by a pair of virtual interfaces. They see the same files, as on a cluster with a shared file system."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rlef_lightning.execution.users import FIRST_USER

from .commands import ROOT, environment

ADDRESSES = {"node-0": "10.203.77.1", "node-1": "10.203.77.2"}
INTERFACE = "between"
LIVES_S = 900
"""Seconds after which a node is gone, whatever became of the test."""
_UNSHARE = ["unshare", "--net", "--mount", "--uts"]
# The nodes share one kernel's users, but executors claim theirs by names that each network has for itself:
# so each node keeps others from the first ones.
_HOLD = """
import socket, sys, time
first, count, seconds = map(int, sys.argv[1:])
kept = [socket.socket(socket.AF_UNIX) for _ in range(count)]
for number, sock in enumerate(kept):
    sock.bind(f"\\0rlef-lightning-user-{first + number}")
time.sleep(seconds)
"""


def lacks() -> str:
    """Why nodes cannot be made here; empty: they can."""
    if missing := [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]:
        return f"no {', '.join(missing)} (packages iproute2, util-linux)"
    # A pair of interfaces, which is what most sandboxes refuse, in a namespace that is gone at once.
    pair = ["name", "probe0", "type", "veth", "peer", "name", "probe1"]
    probe = [*_UNSHARE, "ip", "link", "add", *pair]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"no right to make network namespaces: {done.stderr.strip()}"


class Node:
    """One of them: a process that only holds the namespaces, and those that are started in them."""

    def __init__(self, name: str) -> None:
        self.name = name
        users = 100 * (1 + list(ADDRESSES).index(name))
        hold = [sys.executable, "-c", _HOLD, str(FIRST_USER), str(users), str(LIVES_S)]
        self._holder = subprocess.Popen([*_UNSHARE, *hold])
        while self._namespace(self._holder.pid) in (self._namespace(os.getpid()), None):
            time.sleep(0.01)  # until it has left this process's namespaces

    @property
    def pid(self) -> int:
        """By which `ip` finds the namespace."""
        return self._holder.pid

    @staticmethod
    def _namespace(pid: int) -> str | None:
        try:
            return os.readlink(f"/proc/{pid}/ns/net")
        except OSError:
            return None

    def inside(self, *line: str) -> list[str]:
        """The command line that runs this one here."""
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--", *line]

    def connect(self, hosts: Path) -> None:
        """Give the node its address and name; it knows the names in `hosts`."""
        for line in (
            f"ip address add {ADDRESSES[self.name]}/24 dev {INTERFACE}",
            f"ip link set {INTERFACE} up",
            "ip link set lo up",
            f"hostname {self.name}",
            f"mount --bind {hosts} /etc/hosts",
        ):
            subprocess.run(self.inside(*line.split()), check=True)

    def launch(self, folder: Path, log: IO[str], *options: str, **variables: str) -> subprocess.Popen[str]:
        """Start tools/launch/torchrun.sh with one rank."""
        own = {
            "RLEF_NODES": "2", "RLEF_RANKS_PER_NODE": "1", "RLEF_HEAD": "node-0", "RLEF_PLAN": "0",
            "RLEF_RESTARTS": "0",
            # As in an environment that is activated: torchrun lies beside the interpreter.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        script = ["env", "-C", str(folder), str(ROOT / "tools/launch/torchrun.sh"), *options]
        return subprocess.Popen(
            self.inside(*script), env=environment() | own | variables, stdout=log, stderr=log, text=True
        )

    def processes(self) -> list[int]:
        """All that run here but the holder."""
        own = self._namespace(self.pid)
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        return [pid for pid in pids if pid != self.pid and own and self._namespace(pid) == own]

    def kill(self) -> None:
        """As when a node's power fails: nothing that ran here goes on."""
        while left := self.processes():
            for pid in left:
                _kill(pid)
            time.sleep(0.01)

    def remove(self) -> None:
        """Ends all processes; with the last one the namespaces and their interface are gone."""
        self.kill()
        self._holder.kill()
        self._holder.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)
    except (ProcessLookupError, ChildProcessError):
        pass  # gone, or somebody else's child


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes that reach each other; `folder` takes a file that they need."""
    hosts = folder / "hosts"
    hosts.write_text(
        "".join(f"{address} {name}\n" for name, address in ADDRESSES.items()) + "127.0.0.1 localhost\n"
    )
    nodes: list[Node] = []
    try:
        for name in ADDRESSES:
            nodes += [Node(name)]
        pair = ["name", INTERFACE, "netns", str(nodes[0].pid), "type", "veth"]
        peer = ["peer", "name", INTERFACE, "netns", str(nodes[1].pid)]
        subprocess.run(["ip", "link", "add", *pair, *peer], check=True)
        for node in nodes:
            node.connect(hosts)
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            node.remove()
