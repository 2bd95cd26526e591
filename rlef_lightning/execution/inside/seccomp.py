"""The system calls that no program of the task's kind needs -> one BPF filter, loaded by each program.

A deny-list: programs, their imports and their threads use too many harmless calls to list them all, and
a call that is refused by mistake would be a wrong verdict. What is denied reaches other processes, the
kernel's wider surfaces, or things that outlive a run. The numbers are those of the kernel's tables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .kernel import libc

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
"""Calls of the 32-bit interface with 64-bit registers carry this bit."""

# name: (x86_64, aarch64); None where the architecture does not have the call.
_NO_SUCH_CALL = {
    "clone3": (435, 435),  # its flags lie in memory, where a filter cannot look; libraries fall back to clone
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
_REFUSED = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "kcmp": (312, 272),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30),
    # name spaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_tree_attr": (467, 467),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # things that outlive a run, or are shared beyond it
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "flock": (73, 32),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "file_setattr": (469, 469),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),  # keep what is removed
    "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    # the network; a stream socketpair stays, event loops need it
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "sendmsg": (46, 211), "sendmmsg": (307, 269),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "personality": (135, 92),
    "quotactl": (179, 60), "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225),
    "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "syslog": (103, 116), "vhangup": (153, 58),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "seccomp": (317, 277), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
}  # fmt: skip
_NEW_NAMESPACE = 0x7E020080
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_SOCKET_TYPE, _STREAM = 0xF, 1
_SIGCHLD = 17
_REFUSED_CONTROLS = {
    "TIOCSTI": 0x5412, "TIOCLINUX": 0x541C,
    # marks on files and file systems, which stay
    "FS_IOC_SETFLAGS": 0x40086602, "FS_IOC32_SETFLAGS": 0x40046602, "FS_IOC_FSSETXATTR": 0x401C5820,
    "FS_IOC_SETVERSION": 0x40087602, "FS_IOC32_SETVERSION": 0x40047602,
    "FS_IOC_ADD_ENCRYPTION_KEY": 0xC0506617,
}  # fmt: skip
_REFUSED_ON_FILES = {"F_SET_RW_HINT": 1036, "F_SET_FILE_RW_HINT": 1038}
"""Older kernels keep such a hint for any file that can be read."""
_INSTRUCTION_BYTES = 8


def _ins(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter: operation, jumps (in instructions to skip), constant."""
    return struct.pack("=HBBI", code, if_true, if_false, k)


def _refuse(number: int) -> bytes:
    return _ins(_RETURN, _ERRNO | number)


def _when(number: int, *block: bytes) -> bytes:
    """`block` for this call only; it must return on every path."""
    instructions = b"".join(block)
    return _ins(_JUMP_EQUAL, number, 0, len(instructions) // _INSTRUCTION_BYTES) + instructions


def _argument(index: int, *, high: bool = False) -> bytes:
    """Loads half of an argument; both architectures are little-endian."""
    return _ins(_LOAD, _ARGUMENTS_AT + 8 * index + 4 * high)


def _conditional(column: int) -> bytes:
    """Calls that are refused for some arguments."""
    numbers = {
        "clone": (56, 220), "socketpair": (53, 199), "ioctl": (16, 29), "fcntl": (72, 25),
        "prlimit64": (302, 261), "sendto": (44, 206), "rt_sigaction": (13, 134),
    }  # fmt: skip
    of = {name: both[column] for name, both in numbers.items()}
    allow, refuse = _ins(_RETURN, _ALLOW), _refuse(errno.EPERM)
    return b"".join((
        _when(of["clone"], _argument(0), _ins(_JUMP_ANY_BIT, _NEW_NAMESPACE, 0, 1), refuse, allow),
        # a datagram pair could be sent from to any other address
        _when(of["socketpair"], _argument(1), _ins(_AND, _SOCKET_TYPE),
              _ins(_JUMP_EQUAL, _STREAM, 1, 0), refuse, allow),
        _when(of["ioctl"], _argument(1), _members([*_REFUSED_CONTROLS.values()], errno.EPERM), allow),
        _when(of["fcntl"], _argument(1), _members([*_REFUSED_ON_FILES.values()], errno.EPERM), allow),
        _when(of["prlimit64"], _argument(0), _ins(_JUMP_EQUAL, 0, 1, 0), refuse, allow),
        _when(of["sendto"], _argument(4), _ins(_JUMP_EQUAL, 0, 0, 2), _argument(4, high=True),
              _ins(_JUMP_EQUAL, 0, 1, 0), refuse, allow),
        # who ignores its children's ends takes their CPU time out of the kernel's books; asking is open
        _when(of["rt_sigaction"], _argument(0), _ins(_JUMP_EQUAL, _SIGCHLD, 0, 5), _argument(1),
              _ins(_JUMP_EQUAL, 0, 0, 2), _argument(1, high=True), _ins(_JUMP_EQUAL, 0, 1, 0), refuse, allow),
    ))  # fmt: skip


def program_filter(machine: str = "") -> bytes:
    """The filter for this (or the named) architecture; raises OSError for one without a table."""
    machine = machine or os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"there is no table of system calls for {machine}")
    column = list(_ARCHITECTURES).index(machine)
    missing = sorted(both[column] for both in _NO_SUCH_CALL.values() if both[column] is not None)
    refused = sorted(n for both in _REFUSED.values() if (n := both[column]) is not None)
    parts = [
        _ins(_LOAD, _ARCHITECTURE_AT),
        _ins(_JUMP_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _ins(_RETURN, _KILL),
        _ins(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        parts += [_ins(_JUMP_ABOVE, _X32, 0, 1), _refuse(errno.ENOSYS)]
    parts += [_conditional(column), _members(missing, errno.ENOSYS), _members(refused, errno.EPERM)]
    return b"".join((*parts, _ins(_RETURN, _ALLOW)))


def _members(numbers: list[int], error: int) -> bytes:
    """Refuses each of at most 255 numbers; jumps reach one common return after the list."""
    last = len(numbers) - 1
    tests = [
        # a hit jumps over the tests that follow; the last miss jumps over the return
        _ins(_JUMP_EQUAL, number, last - place, int(place == last))
        for place, number in enumerate(numbers)
    ]
    return b"".join((*tests, _refuse(error)))


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Filter:
    """A filter that is ready to be loaded by a forked process with few instructions of its own."""

    def __init__(self) -> None:
        self._bytes = program_filter()
        self._program = _FilterProgram(len(self._bytes) // _INSTRUCTION_BYTES, self._bytes)

    def try_out(self) -> None:
        """Loads it in a copy of this process; raises OSError where the kernel does not accept it."""
        copy = os.fork()
        if copy == 0:
            try:
                self.load()
            except OSError as error:
                os._exit(error.errno or errno.EINVAL)
            os._exit(0)
        refusal = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
        if refusal:
            raise OSError(refusal, os.strerror(refusal))

    def load(self) -> None:
        """From here on, for this process and all its children. Raises OSError.

        Needs no_new_privs, which the runner has set.
        """
        address = ctypes.byref(self._program)
        if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the filter of system calls was not accepted")
