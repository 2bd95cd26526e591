"""The end of a program: what plain Python does between the last statement and the exit is done here, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain import in_plain_python, in_the_bootstrap
from sandboxing import Sandbox

from rlef_lightning.types import Interface, Verdict

pytestmark = pytest.mark.slow

FILE = Interface(output_file="o.txt")
FILES = {
    "never closed": "f = open('o.txt', 'w')\nf.write('7')",
    "used by a function": "f = open('o.txt', 'w')\ndef main():\n    f.write('7')\nmain()",
    "left in a function": "def main():\n    f = open('o.txt', 'w')\n    print(7, file=f)\nmain()",
    "exit()": "f = open('o.txt', 'w')\nprint(7, file=f)\nexit()",
    "exit in a function": "def main():\n    f = open('o.txt', 'w')\n    f.write('7')\n    exit()\nmain()",
    "a class": "class A:\n    f = open('o.txt', 'w')\nA.f.write('7')",
    "an object": "class A:\n    pass\na = A()\na.a, a.f = a, open('o.txt', 'w')\na.f.write('7')",
    "a list": "files = [open('o.txt', 'w')]\nfiles.append(files)\nfiles[0].write('7')",
    "a closure": (
        "def outer():\n    f = open('o.txt', 'w')\n    def inner():\n        f.write('7')\n    return inner\n"
        "write = outer()\nwrite()"
    ),
    "binary": "f = open('o.txt', 'wb')\nf.write(b'7')\ndef main():\n    pass",
    "a writer of bytes": "import io\nb = io.BufferedWriter(io.FileIO('o.txt', 'w'))\nb.write(b'7')",
    "a module": "import random\nrandom.f = open('o.txt', 'w')\nrandom.f.write('7')",
    "a default": "def main(f=open('o.txt', 'w')):\n    f.write('7')\nmain()",
    "stdout": "import sys\nsys.stdout = open('o.txt', 'w')\nprint(7)\ndef main():\n    pass",
    "collected before": "import gc\nf = open('o.txt', 'w')\nf.write('7')\ngc.disable()\ngc.collect()",
    "a suspended generator": (
        "def lines():\n    with open('o.txt', 'w') as f:\n        while True:\n            f.write((yield))\n"
        "g = lines()\nnext(g)\ng.send('7')"
    ),
    "a handler of signals": (
        "import signal\nf = open('o.txt', 'w')\nf.write('7')\nsignal.signal(signal.SIGALRM, lambda *a: f)"
    ),
    "an annotation": (
        "from typing import List\nf = open('o.txt', 'w')\nf.write('7')\n"
        "class A:\n    def m(self):\n        pass\nkept = List[A]"
    ),
    "an exception": (
        "f = open('o.txt', 'w')\ntry:\n    1 / 0\nexcept ZeroDivisionError as e:\n"
        "    f.write('7')\n    x = e"
    ),
    "beside another": "import gzip\nf = gzip.open('z', 'wb')\no = open('o.txt', 'w')\no.write('7')",
}  # fmt: skip


@pytest.mark.every_backend
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_nobody_closed_is_whole(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    plain = in_plain_python(FILES[name], tmp_path)
    assert plain.status == 0
    assert plain.file in ("7", "7\n")
    (result,) = sandbox.judge(FILES[name], [("", plain.file)], interface=FILE).results
    assert (result.verdict, result.stdout) == (Verdict.ACCEPTED, plain.file)


FAST_IO = """
import os
from io import BytesIO, IOBase

class Fast(IOBase):
    def __init__(self):
        self.buffer = BytesIO()
        self.write = self.buffer.write

    def flush(self):
        os.write(1, self.buffer.getvalue())
        self.buffer.truncate(0), self.buffer.seek(0)

out = Fast()
out.write(b"7")
"""
PRINTED = {
    "a file on stdout": "f = open(1, 'w')\nprint(7, file=f)",
    "fdopen": "import os\nf = os.fdopen(1, 'w')\nf.write('7')\ndef main():\n    pass",
    "print before the file": "f = open(1, 'w', closefd=False)\nf.write('b')\nprint('a')",
    "two files": "a, b = (open(1, 'w', closefd=False) for _ in 'ab')\nb.write('b')\na.write('a')\nprint('p')",
    "stdout replaced": "import io, sys\nprint(7)\nsys.stdout = io.StringIO()",
    "stdout removed": "import sys\nprint(7)\nsys.stdout = sys.__stdout__ = None",
    "stdout wrapped": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(7)",
    "stdout detached": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint(7)",
    "stdout closed": "import sys\nprint(7)\nsys.stdout.close()",
    "__del__": "class A:\n    def __del__(self):\n        print(7)\na = A()",
    "__del__ with a global": "seven = 7\nclass A:\n    def __del__(self):\n        print(seven)\na = A()",
    "__del__ in a cycle": "class A:\n    def __del__(self):\n        print(7)\na = A()\na.a = a",
    "__del__ while kept": (
        "from typing import List\nclass A:\n    def __del__(self):\n        print(7)\nB = List[A]\na = A()"
    ),
    "__del__ after exit": "class A:\n    def __del__(self):\n        print(7)\na = A()\nexit()",
    "a generator": "def g():\n    try:\n        yield\n    finally:\n        print(7)\nx = g()\nnext(x)",
    "fast input and output": FAST_IO,
    "in this order": (
        "import atexit, threading, time\n"
        "class A:\n    def __del__(self):\n        print('object')\na = A()\n"
        "atexit.register(print, 'atexit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()\nprint('main')"
    ),
    "a child": (
        "import os\nf = open(1, 'w', closefd=False)\nf.write('7')\n"
        "if os.fork():\n    os.wait()\n    os._exit(0)"
    ),
    "os._exit": "import os\nf = open(1, 'w')\nf.write('7')\nprint(7)\nos._exit(0)",
    "a __del__ that raises": "class A:\n    def __del__(self):\n        print(7)\n        1 / 0\na = A()",
    "a __del__ that exits": "class A:\n    def __del__(self):\n        print(7)\n        exit(3)\na = A()",
}


@pytest.mark.parametrize("name", PRINTED)
def test_what_is_printed_at_the_end_is_printed(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    plain = in_plain_python(PRINTED[name], tmp_path)
    result = sandbox.run(PRINTED[name], expected=plain.stdout)
    assert plain.status == 0
    assert (result.verdict, result.stdout) == (Verdict.ACCEPTED, plain.stdout)


BAD_TEXT = "class A:\n    def __str__(self):\n        {}\nimport sys\nsys.exit(A())"
OWN_CODE = "class E(SystemExit):\n    code = property(lambda self: 1 / 0)\nraise E(0)"
EXITS = [
    "None", "0", "1", "True", "False", "255", "256", "-1", "300", "2**31", "2**32", "2**63 - 1", "2**63",
    "2**70", "-2**70", "'text'", "''", "0.0", "[]", "b''",
]  # fmt: skip
ODD_ENDS = {
    **{f"exit({value})": f"import sys\nprint(7)\nsys.exit({value})" for value in EXITS},
    "exit() of an int of its own": "import enum\nclass E(enum.IntEnum):\n    A = 256\nraise SystemExit(E.A)",
    "exit() of two": "raise SystemExit(0, 1)",
    "exit() of a text that raises": BAD_TEXT.format("1 / 0"),
    "exit() of a text that exits": BAD_TEXT.format("raise SystemExit(0)"),
    "exit() with a code that raises": OWN_CODE,
    "exit() without stderr": "import sys\nsys.stderr = None\nsys.exit('text')",
    "stdout gone": "import os\nprint(7)\nos.close(1)",
    "stdout gone, all written": "import os\nprint(7, flush=True)\nos.close(1)",
    "stdout gone, exit(3)": "import os, sys\nprint(7)\nos.close(1)\nsys.exit(3)",
    "stderr gone": "import os, sys\nprint('a', end='', file=sys.stderr)\nos.close(2)",
    "stderr gone, exit with a text": "import os, sys\nos.close(2)\nsys.exit('text')",
    "stdout closed": "import sys\nprint(7)\nsys.stdout.close()",
    "stderr closed": "import sys\nsys.stderr.close()",
    "stdout closed, a failure": "import sys\nsys.stdout.close()\n1 / 0",
    "both gone": "import os\nprint(7)\nos.close(1)\nos.close(2)",
    "stdout detached": "import sys\nout = sys.stdout.detach()\nout.write(b'7')",
    "stdout without flush": "import sys\nsys.stdout = object()",
    "stdout removed": "import sys\nprint(7)\ndel sys.stdout",
    "a failure": "1 / 0",
    "a failure whose hook exits": "import sys\nsys.excepthook = lambda *a: sys.exit(5)\n1 / 0",
    "a failure whose hook hides it": "import sys\nsys.excepthook = lambda *a: sys.exit(0)\n1 / 0",
    "a failure whose hook fails": "import sys\nsys.excepthook = lambda *a: 1 / 0\n[][1]",
    "a failure with no hook to speak of": "import sys\nsys.excepthook = None\n1 / 0",
    "interrupted": "raise KeyboardInterrupt",
    "interrupted, stdout gone": "import os\nprint(7)\nos.close(1)\nraise KeyboardInterrupt",
    "atexit exits": "import atexit, sys\natexit.register(sys.exit, 3)",
    "atexit fails": "import atexit\natexit.register(lambda: 1 / 0)\natexit.register(print, 7)",
    "a thread fails": "import threading\nthreading.Thread(target=lambda: 1 / 0).start()",
    "a thread exits": "import sys, threading\nthreading.Thread(target=sys.exit, args=(3,)).start()",
    "no syntax": "1 +",
    "a file on a stdout that is gone": "import os\nf = open(1, 'w')\nf.write('7')\nos.close(1)",
}


@pytest.mark.parametrize("name", ODD_ENDS)
def test_exit_codes_are_those_of_plain_python(tmp_path: Path, name: str) -> None:
    plain = in_plain_python(ODD_ENDS[name], tmp_path)
    assert in_the_bootstrap(ODD_ENDS[name], tmp_path) == plain


@pytest.mark.parametrize("name", ["exit(2**70)", "stdout gone", "stdout gone, exit(3)", "interrupted"])
def test_a_failure_at_the_end_is_one(sandbox: Sandbox, name: str) -> None:
    assert sandbox.run(ODD_ENDS[name], expected="7\n").verdict is Verdict.RUNTIME_ERROR


LAST_LOOKS = {
    "the main thread": "import threading\nclass A:\n    def __del__(self):\n"
    "        print(threading.main_thread().is_alive())\na = A()",
    "values of a thread": "import threading, time\nkept = threading.local()\nclass A:\n"
    "    def __del__(self):\n        time.sleep(0.2)\n        print(7)\ndef run():\n    kept.a = A()\n"
    "threading.Thread(target=run).start()",
}  # fmt: skip


@pytest.mark.parametrize("name", LAST_LOOKS)
def test_threads_have_ended_when_a_program_looks_last(tmp_path: Path, name: str) -> None:
    plain = in_plain_python(LAST_LOOKS[name], tmp_path)
    assert plain.stdout
    assert in_the_bootstrap(LAST_LOOKS[name], tmp_path) == plain
