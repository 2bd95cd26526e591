"""Probes of what lies beyond the walls: other processes, the network, the kernel. Made in every worker."""

from __future__ import annotations

from rlef_lightning.execution.probes.probe import attempts

_REFUSED = """
def refused(*numbers):
    def call(function, *arguments):
        "Anything but a refusal has reached the kernel, whatever it then said."
        if function(*arguments) == -1 and ctypes.get_errno() in numbers:
            raise OSError(ctypes.get_errno(), "")
    return call
"""

_PROCESSES = (
    _REFUSED
    + """
import resource
call = refused(errno.EPERM, errno.EACCES, errno.ESRCH, errno.ENOSYS)
runner = os.getppid() or 1
def other(pid):
    "In a process name space the number may be this program's own."
    if pid == os.getpid(): raise ProcessLookupError(errno.ESRCH, "")
    return pid
of = {"trainer": given["trainer"], "daemon": given["daemon"], "runner": runner}
read = lambda who, name: open(f"/proc/{other(of[who])}/{name}", "rb").read(1) or "empty, yet open"
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
piece = Piece(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
SEIZE = 0x4206
"""
)
_PROCESS_ACTS = {
    "signal the {who}": "os.kill(other(of[{who!r}]), 0)",
    "read the environment of the {who}": "read({who!r}, 'environ')",
    "open the memory of the {who}": "open('/proc/%d/mem' % other(of[{who!r}]), 'rb').close()",
    "look at the descriptors of the {who}": "os.readlink('/proc/%d/fd/0' % other(of[{who!r}]))",
    "look through the root folder of the {who}": "os.listdir('/proc/%d/root/' % other(of[{who!r}]))",
    "trace the {who}": "call(libc.ptrace, SEIZE, other(of[{who!r}]), None, None)",
    "copy memory of the {who}": (
        "call(libc.process_vm_readv, other(of[{who!r}]), ctypes.byref(piece), 1, ctypes.byref(piece), 1, 0)"
    ),
    "read the limits of the {who}": "resource.prlimit(other(of[{who!r}]), resource.RLIMIT_CORE)",
}

_NETWORK = """
import socket
def reach(family, kind, address):
    with socket.socket(family, kind) as one:
        one.settimeout(0.5)
        one.connect(address)
        one.send(b"x")
def send(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", address)
def listen():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with socket.create_connection(one.getsockname(), 0.5): pass
INET, UNIX, STREAM = socket.AF_INET, socket.AF_UNIX, socket.SOCK_STREAM
"""
_NETWORK_ACTS = {
    "reach TCP of the machine": "reach(INET, STREAM, ('127.0.0.1', given['tcp']))",
    "reach UDP of the machine": "send(('127.0.0.1', given['udp']))",
    "reach an abstract socket of the machine": "reach(UNIX, STREAM, chr(0) + given['abstract'])",
    "reach a socket with a path of the machine": "reach(UNIX, STREAM, given['path'])",
    "listen and connect to itself": "listen()",
}

_SYSTEM_CALLS = (
    _REFUSED
    + """
import platform, signal
ARM = platform.machine() == "aarch64"
call = refused(errno.EPERM, errno.EACCES, errno.ENOSYS)
def clone(flags):
    "As fork, with flags; what it has made ends at once."
    born = libc.syscall(220 if ARM else 56, flags | 17, 0, 0, 0, 0)
    if born == 0: os._exit(0)
    if born > 0: os.waitpid(born, 0)
    return born
NEW_USER, NEW_PIDS = 0x10000000, 0x20000000
"""
)
_SYSTEM_CALL_ACTS = {
    "make a user name space": "call(libc.unshare, NEW_USER)",
    "make a user name space by clone": "call(clone, NEW_USER)",
    "make a process name space": "call(libc.unshare, NEW_PIDS)",
    "join a name space": "call(libc.setns, -1, 0)",
    "mount": "call(libc.mount, b'none', b'.', b'tmpfs', 0, None)",
    "use io_uring": "call(libc.syscall, 425, 0, None)",
    "use keyrings": "call(libc.syscall, 219 if ARM else 250, 0, -3, 0)",
    "use System V shared memory": "call(libc.shmget, 0, 0, 0)",
    "use System V semaphores": "call(libc.semget, 0, 0, 0)",
    "use System V queues": "call(libc.msgget, 0x7a5b1c, 0)",
    "make files in memory": "call(libc.memfd_create, b'probe', 0)",
    "use bpf": "call(libc.syscall, 280 if ARM else 321, 0, None, 0)",
    "use performance counters": "call(libc.syscall, 241 if ARM else 298, None, 0, -1, -1, 0)",
    "handle page faults": "call(libc.syscall, 282 if ARM else 323, 1)",
    "change its personality": "call(libc.personality, 0xFFFFFFFF)",
    "hide the CPU time of its children": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "be traced": "call(libc.ptrace, 0, 0, None, None)",  # the last one: from now on any signal would stop it
}

REACH = (
    attempts(
        "processes",
        _PROCESSES,
        {
            name.format(who=who): act.format(who=who)
            for who in ("trainer", "daemon", "runner")
            for name, act in _PROCESS_ACTS.items()
        },
    ),
    attempts("network", _NETWORK, _NETWORK_ACTS),
    attempts("system_calls", _SYSTEM_CALLS, _SYSTEM_CALL_ACTS),
)
