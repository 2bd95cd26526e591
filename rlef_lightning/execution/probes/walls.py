"""Probes of the walls: what a program must not see, touch or hold. Cheap; made in every worker."""

from __future__ import annotations

from collections.abc import Mapping

from rlef_lightning.execution.probes.probe import Outcome, Probe, ProbeFailedError, attempts, could

ENVIRONMENT = {
    "PATH", "LANG", "HOME", "TMPDIR", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
}  # fmt: skip
"""Names of all variables in a program's environment."""
_NO_SECRETS = ENVIRONMENT | {
    "PYTHONHOME", "LD_LIBRARY_PATH", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "PWD", "OLDPWD", "SHLVL",
    "SHELL", "_",
}  # fmt: skip
"""What a shell, the interpreter and jails set for the runner, perhaps to the same value as the trainer's."""
_ENVIRONMENT_CODE = """
import json, os
raw = open("/proc/self/environ", "rb").read().decode(errors="replace")
print(json.dumps({"now": sorted(os.environ), "start": [item for item in raw.split(chr(0)) if item]}))
"""


def _judge_environment(outcome: Outcome) -> str:
    """Jails add variables of their own for the runner, which programs find in /proc/self/environ."""
    said = outcome.said
    leaked = {item.partition("=")[0] for item in said["start"] if item in outcome.decoys.environment}
    odd = sorted((set(said["now"]) - ENVIRONMENT) | (leaked - _NO_SECRETS))
    return f"see the variables {', '.join(odd)}" if odd else ""


_DESCRIPTORS_CODE = """
import json, os, stat
kinds = {fd: stat.S_IFMT(os.fstat(fd).st_mode) for fd in range(3)}
held = []
for fd in range(3, 4096):
    try: held.append(os.readlink(f"/proc/self/fd/{fd}") if os.fstat(fd) else "")
    except OSError: pass
print(json.dumps({"kinds": list(kinds.values()), "held": held}))
"""
_FILE_AND_TWO_PIPES = [0o100000, 0o010000, 0o010000]


def _judge_descriptors(outcome: Outcome) -> str:
    said = outcome.said
    if said["kinds"] != _FILE_AND_TWO_PIPES:
        raise ProbeFailedError(f"the kinds of its streams are {[oct(kind) for kind in said['kinds']]}")
    return f"hold {', '.join(said['held'])}" if said["held"] else ""


_STDIN = attempts(
    "stdin",
    """
anew = lambda: os.open("/proc/self/fd/0", os.O_RDWR)
size = os.fstat(0).st_size
if os.pread(0, size, 0).decode() != json.dumps(given) or size < 100:
    raise SystemExit("stdin is not what was sent")
""",
    {
        "write to stdin": "os.pwrite(0, b'x', 0)",
        "cut stdin": "os.ftruncate(0, 0)",
        "open stdin anew and write": "os.pwrite(anew(), b'x', 0)",
        "open stdin anew and cut it": "os.ftruncate(anew(), 0)",
        "make stdin grow": "os.posix_fallocate(0, 0, size + 1)",
    },
)

_PRIVILEGES_CODE = """
import json, os, sys, time
given = json.load(sys.stdin)
def succeeds(act, *arguments):
    try: act(*arguments)
    except OSError: return False
    return True
for act in (os.setresgid, os.setresuid): succeeds(act, 0, 0, 0)  # whether it helps is seen from outside
acts = {"change groups": (os.setgroups, [0]), "change the root folder": (os.chroot, "."),
        "raise its priority": (os.nice, -1)}
gained = [name for name, call in acts.items() if succeeds(*call)]
time.sleep(NAP)
print(json.dumps({"pid": os.getpid(), "gained": gained}))
"""


def _judge_privileges(outcome: Outcome) -> str:
    said = outcome.said
    own = [one for one in outcome.credentials if number_inside(one) == int(said["pid"])]
    if not own:
        raise ProbeFailedError("its process was not seen from outside")
    return could(said["gained"], *(rights(one) for one in own))


def number_inside(status: Mapping[str, str]) -> int:
    """The process id in the innermost name space: what the process itself takes for it."""
    return int(status.get("NSpid", status["Pid"]).split()[-1])


def rights(status: Mapping[str, str]) -> list[str]:
    """Words for what the kernel says, in /proc/<pid>/status, that a program must not be able to do."""
    capabilities = any(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
    found = {
        "act as root": "0" in status["Uid"].split(),
        "act as root's group": "0" in [*status["Gid"].split(), *status["Groups"].split()],
        "use capabilities": capabilities,
        "gain rights by a setuid program": status["NoNewPrivs"].strip() != "1",
    }
    return [name for name, held in found.items() if held]


def _privileges(nap_s: float) -> Probe:
    code = _PRIVILEGES_CODE.replace("NAP", str(nap_s))
    return Probe(guarantee="privileges", code=code, judge=_judge_privileges, watched=True)


_READ_FILES = attempts(
    "read_files",
    "see = lambda path: open(path, 'rb').read(1)",
    {
        "read a file that is open to all": "see(given['secret'])",
        "read /etc/passwd": "see('/etc/passwd')",
        "read /etc/hosts": "see('/etc/hosts')",
        "read the log of its runner": "see('../../runner.log')",
        "list the trainer's home folder": "os.listdir(given['home'])",
        "list the trainer's code": "os.listdir(given['package'])",
        "list the folder of temporary files": "os.listdir('/tmp')",
        "list /var": "os.listdir('/var')",
        "list /sys": "os.listdir('/sys')",
    },
)

_WRITE_FILES = """
def leave(place):
    path = os.path.join(place, given["token"])
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
def leave_somewhere():
    done = []
    for place in given["places"]:
        try:
            leave(place)
            done.append(place)
        except OSError: pass
    if not done: raise PermissionError(errno.EACCES, "")
"""
_WRITE_FILES += """
def change_modes():
    "As they are, or nearly so; the parent of the scratch folder is the runner's, which sets it right again."
    done = 0
    for path in ("/", "/tmp", "/dev", "/dev/shm", "/usr", "/etc", "../.."):
        try:
            os.chmod(path, os.stat(path).st_mode & 0o7777)
            done += 1
        except OSError: pass
    if not done: raise PermissionError(errno.EPERM, "")
"""
_WRITE_FILES_ACTS = {
    "leave a file in a folder that is open to all": "leave(os.path.dirname(given['secret']) + '/open')",
    "leave a file in /tmp, /var/tmp, /dev/shm, /run or /": "leave_somewhere()",
    "leave a file beside its scratch folder": "leave('..')",
    "rename its scratch folder": "os.rename('../run', '../ran')",
    "change a file of the trainer's": "open(given['secret'], 'r+').close()",
    "change the mode of a file of the trainer's": "os.chmod(given['secret'], 0o644)",
    "change the times of a file of the trainer's": "os.utime(given['secret'])",
    "change the mode of folders around it": "change_modes()",
    "change settings of the kernel": "open('/proc/sys/kernel/hostname', 'r+').close()",
}
WALLS = (
    Probe(guarantee="environment", code=_ENVIRONMENT_CODE, judge=_judge_environment),
    Probe(guarantee="descriptors", code=_DESCRIPTORS_CODE, judge=_judge_descriptors),
    _STDIN,
    _privileges(0.03),
    _READ_FILES,
    attempts("write_files", _WRITE_FILES, _WRITE_FILES_ACTS),
)
PATIENT_PRIVILEGES = _privileges(0.5)
"""For a machine so busy that the first one was over before it was looked at."""
