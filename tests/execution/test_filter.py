"""The filter of system calls, run by an interpreter of the kernel's filter language written for this test."""

from __future__ import annotations

import errno
import struct

import pytest

from rlef_lightning.execution.inside.seccomp import program_filter

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X86, ARM = 0xC000003E, 0xC00000B7
MACHINES = {"x86_64": X86, "aarch64": ARM}


def outcome(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would do: struct seccomp_data is number, architecture, address, six arguments."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, architecture, 0, *padded)
    code = [struct.unpack("=HBBI", program[at : at + 8]) for at in range(0, len(program), 8)]
    at = value = 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif operation == 0x54:
            value &= k
        elif operation == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: value & k != 0}[operation]
            at += if_true if holds else if_false


# From the kernel's own tables (arch/x86/entry/syscalls, include/uapi/asm-generic/unistd.h).
PLAIN = {
    "read": (0, 63), "write": (1, 64), "openat": (257, 56), "mmap": (9, 222), "brk": (12, 214),
    "futex": (202, 98), "getrandom": (318, 278), "wait4": (61, 260), "kill": (62, 129), "execve": (59, 221),
    "getcwd": (79, 17), "ftruncate": (77, 46), "utimensat": (280, 88), "sched_yield": (24, 124),
    "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10), "listxattr": (194, 11),
    "llistxattr": (195, 12), "flistxattr": (196, 13), "landlock_restrict_self": (446, 446),
}  # fmt: skip
DENIED = {
    "ptrace": (101, 117), "unshare": (272, 97), "mount": (165, 40), "keyctl": (250, 219),
    "shmget": (29, 194), "memfd_create": (319, 279), "socket": (41, 198), "bpf": (321, 280),
    "process_vm_readv": (310, 270), "sched_setaffinity": (203, 122), "setns": (308, 268),
    "add_key": (248, 217), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "flock": (73, 32),
    "mq_open": (240, 180), "connect": (42, 203), "seccomp": (317, 277), "pidfd_getfd": (438, 438),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "file_setattr": (469, 469), "landlock_create_ruleset": (444, 444),
}  # fmt: skip
ABSENT = {"clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426)}


@pytest.mark.parametrize(("column", "machine"), list(enumerate(MACHINES)))
def test_calls_by_their_number(column: int, machine: str) -> None:
    program, architecture = program_filter(machine), MACHINES[machine]
    for table, expected in (
        (PLAIN, ALLOW),
        (DENIED, ERRNO | errno.EPERM),
        (ABSENT, ERRNO | errno.ENOSYS),
    ):
        found = {name: outcome(program, architecture, numbers[column]) for name, numbers in table.items()}
        assert found == dict.fromkeys(table, expected)


@pytest.mark.parametrize(("column", "machine"), list(enumerate(MACHINES)))
@pytest.mark.parametrize(
    ("numbers", "arguments", "allowed"),
    [
        ((56, 220), (17,), True),  # clone(SIGCHLD): fork
        ((56, 220), (0x3D0F00,), True),  # the flags of a new thread
        ((56, 220), (0x10000000 | 17,), False),  # CLONE_NEWUSER
        ((56, 220), (0x00020000 | 17,), False),  # CLONE_NEWNS
        ((56, 220), (0x00000080 | 17,), False),  # CLONE_NEWTIME
        ((53, 199), (1, 1 | 0o2000000), True),  # socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        ((53, 199), (1, 2), False),  # SOCK_DGRAM
        ((53, 199), (1, 5), False),  # SOCK_SEQPACKET
        ((16, 29), (0, 0x5401), True),  # ioctl(TCGETS): isatty
        ((16, 29), (0, 0x5412), False),  # TIOCSTI
        ((16, 29), (0, 0x541C), False),  # TIOCLINUX
        ((16, 29), (3, 0x80086601), True),  # FS_IOC_GETFLAGS
        ((16, 29), (3, 0x40086602), False),  # FS_IOC_SETFLAGS: _IOW('f', 2, long)
        ((16, 29), (3, 0x401C5820), False),  # FS_IOC_FSSETXATTR: _IOW('X', 32, 28 bytes)
        ((16, 29), (3, 0xC0506617), False),  # FS_IOC_ADD_ENCRYPTION_KEY: _IOWR('f', 23, 80 bytes)
        ((72, 25), (3, 2), True),  # fcntl(F_SETFD)
        ((72, 25), (3, 1030), True),  # F_DUPFD_CLOEXEC
        ((72, 25), (3, 1036), False),  # F_SET_RW_HINT
        ((72, 25), (3, 1038), False),  # F_SET_FILE_RW_HINT
        ((13, 134), (17, 0, 0x7FFC00001000), True),  # rt_sigaction(SIGCHLD), only asking
        ((13, 134), (17, 0x7FFC00001000), False),
        ((13, 134), (17, 0x7FFC00000000), False),  # an address whose lower half is zero
        ((13, 134), (2, 0x7FFC00001000), True),  # SIGINT
        ((302, 261), (0, 7), True),  # prlimit64 of the process itself
        ((302, 261), (4711, 7), False),
        ((44, 206), (3, 0, 0, 0, 0), True),  # sendto without an address: send
        ((44, 206), (3, 0, 0, 0, 0x7FFC00001000), False),
        ((44, 206), (3, 0, 0, 0, 0x7FFC00000000), False),  # an address whose lower half is zero
    ],
)
def test_calls_by_their_arguments(
    column: int, machine: str, numbers: tuple[int, int], arguments: tuple[int, ...], allowed: bool
) -> None:
    found = outcome(program_filter(machine), MACHINES[machine], numbers[column], *arguments)
    assert found == (ALLOW if allowed else ERRNO | errno.EPERM)


def test_another_interface_of_the_kernel_is_no_way_round() -> None:
    assert outcome(program_filter("x86_64"), 0x40000003, 4) == KILL  # 32-bit calls: another architecture
    assert outcome(program_filter("x86_64"), X86, 0x40000000 | 101) == ERRNO | errno.ENOSYS  # x32
    assert outcome(program_filter("aarch64"), X86, 63) == KILL


def test_an_architecture_without_a_table_is_an_error() -> None:
    with pytest.raises(OSError, match="no table of system calls for sparc"):
        program_filter("sparc")
