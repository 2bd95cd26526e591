"""Each verdict and each limit on real programs, and honest programs that must pass."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sandboxing import LIMITS, RULE, Sandbox

from rlef_lightning.errors import ConfigError, ExecutorError
from rlef_lightning.execution import Executor, SubprocessExecutor
from rlef_lightning.types import OutputRule, TestCase, Verdict

ADD = "a, b = map(int, input().split())\nprint(a + b)"


def test_accepted_and_wrong(sandbox: Sandbox) -> None:
    report = sandbox.judge(ADD, [("3 4\n", "7\n"), ("1 1\n", "3\n"), ("0 0", "0")])
    assert [r.verdict for r in report.results] == [Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.ACCEPTED]
    assert report.results[1].stdout == "2\n"
    assert 0 < report.results[0].cpu_s < 1
    assert 1 << 20 < report.results[0].peak_memory_bytes < 100 << 20


def test_stops_at_the_first_failure(sandbox: Sandbox) -> None:
    report = sandbox.judge(ADD, [("3 4", "7"), ("1 1", "3"), ("0 0", "0")], stop=True)
    assert [r.verdict for r in report.results] == [Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.SKIPPED]


def test_an_uncaught_exception_shows_the_programs_own_frames(sandbox: Sandbox) -> None:
    result = sandbox.run("import json\ndef read(text):\n    return json.loads(text)\nread('{')")
    assert result.verdict is Verdict.RUNTIME_ERROR
    assert "File \"solution.py\", line 4, in <module>\n    read('{')" in result.stderr
    assert "JSONDecodeError" in result.stderr
    assert result.stderr.count("File ") == 2


def test_a_chained_exception_is_shown_whole(sandbox: Sandbox) -> None:
    result = sandbox.run(
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('k') from error"
    )
    assert "ZeroDivisionError" in result.stderr
    assert "direct cause" in result.stderr
    assert result.stderr.endswith("KeyError: 'k'\n")


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("print(7)\nimport sys\nsys.exit(0)", Verdict.ACCEPTED),
        ("print(7)\nexit()", Verdict.ACCEPTED),
        ("print(7)\nraise SystemExit", Verdict.ACCEPTED),
        ("print(7, flush=True)\nimport os\nos._exit(0)", Verdict.ACCEPTED),
        ("print(7)\nimport sys\nsys.exit(3)", Verdict.RUNTIME_ERROR),
        ("print(7)\nimport sys\nsys.exit('no')", Verdict.RUNTIME_ERROR),
        ("print(7)\nimport os, signal\nos.kill(os.getpid(), signal.SIGTERM)", Verdict.RUNTIME_ERROR),
        ("print(7)\nimport atexit\natexit.register(print, 8)", Verdict.WRONG_ANSWER),
        ("import sys\nsys.stdout.write('7')", Verdict.ACCEPTED),
        ("import sys\nprint(7)\nsys.stdout.close()", Verdict.ACCEPTED),
        ("def f(:\n    pass", Verdict.SYNTAX_ERROR),
        ("print(7", Verdict.SYNTAX_ERROR),
        ("x = '\0'", Verdict.SYNTAX_ERROR),
        ("print('\ud800')", Verdict.SYNTAX_ERROR),
        ("return 7", Verdict.SYNTAX_ERROR),
        ("raise SyntaxError('made up')", Verdict.RUNTIME_ERROR),
        ("eval('1 +')", Verdict.RUNTIME_ERROR),
        ("", Verdict.WRONG_ANSWER),
        ("print('MemoryError')\nraise ValueError('MemoryError')", Verdict.RUNTIME_ERROR),
        ("print(7, file=__import__('sys').stderr)", Verdict.WRONG_ANSWER),
        ("if __name__ == '__main__':\n    print(7)", Verdict.ACCEPTED),
    ],
)
def test_how_programs_end(sandbox: Sandbox, code: str, wanted: Verdict) -> None:
    assert sandbox.run(code, expected="7\n").verdict is wanted


def test_time_limit_by_cpu(sandbox: Sandbox) -> None:
    result = sandbox.run("while True: pass", limits=replace(LIMITS, cpu_s=0.2))
    assert result.verdict is Verdict.TIME_LIMIT
    assert 0.2 < result.cpu_s < 0.4


def test_time_limit_by_cpu_of_children(sandbox: Sandbox) -> None:
    code = "import os\nos.fork()\nos.fork()\nwhile True: pass"
    result = sandbox.run(code, limits=replace(LIMITS, cpu_s=0.3))
    assert result.verdict is Verdict.TIME_LIMIT
    assert result.cpu_s < 1.0


def test_time_limit_by_many_short_children(sandbox: Sandbox) -> None:
    spin = (
        "    end = time.process_time() + 0.05\n    while time.process_time() < end: pass\n    os._exit(0)\n"
    )
    code = f"import os, time\nfor _ in range(40):\n  if os.fork() == 0:\n{spin}  os.wait()\nprint(7)"
    assert sandbox.run(code, expected="7", limits=replace(LIMITS, cpu_s=0.3)).verdict is Verdict.TIME_LIMIT


def test_time_limit_by_the_clock(sandbox: Sandbox) -> None:
    result = sandbox.run("import time\ntime.sleep(60)", limits=replace(LIMITS, wall_s=0.3))
    assert result.verdict is Verdict.TIME_LIMIT
    assert result.cpu_s < 0.2


def test_within_a_short_limit(sandbox: Sandbox) -> None:
    assert (
        sandbox.run("print(7)", expected="7", limits=replace(LIMITS, cpu_s=0.1)).verdict is Verdict.ACCEPTED
    )


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(8 << 30)",
        "x = []\nwhile True: x.append('y' * 1000000)",
        "import array\nx = array.array('q', [1]) * (1 << 30)",
        "def f():\n    try:\n        return [0] * (1 << 32)\n    finally:\n        pass\nf()",
    ],
)
def test_memory_limit(sandbox: Sandbox, code: str) -> None:
    assert sandbox.run(code).verdict is Verdict.MEMORY_LIMIT


def test_a_caught_memory_error_is_no_verdict(sandbox: Sandbox) -> None:
    code = "try:\n    x = bytearray(8 << 30)\nexcept MemoryError:\n    print(7)"
    assert sandbox.run(code, expected="7").verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_limit(sandbox: Sandbox, stream: str) -> None:
    code = f"import sys\nwhile True: sys.{stream}.write('x' * 100000)"
    result = sandbox.run(code, limits=replace(LIMITS, output_bytes=1 << 20))
    assert result.verdict is Verdict.OUTPUT_LIMIT
    assert len(result.stdout) <= 2048


def test_output_limit_is_exact(sandbox: Sandbox) -> None:
    limits = replace(LIMITS, output_bytes=100_000)
    assert sandbox.run("print('x' * 99_999)", expected="x" * 99_999, limits=limits).passed
    over = sandbox.run("print('x' * 100_000)", expected="x" * 100_000, limits=limits)
    assert over.verdict is Verdict.OUTPUT_LIMIT


def test_file_size_limit(sandbox: Sandbox) -> None:
    code = "with open('big', 'wb') as f:\n    f.write(b'x' * (2 << 20))\nprint(7)"
    assert sandbox.run(code, expected="7").verdict is Verdict.ACCEPTED
    result = sandbox.run(code, expected="7", limits=replace(LIMITS, file_bytes=1 << 20))
    assert result.verdict is Verdict.RUNTIME_ERROR
    assert "File too large" in result.stderr


HONEST = {
    "ten megabytes": (
        "import sys\ndata = sys.stdin.buffer.read()\nsys.stdout.buffer.write(data)",
        "0123456789" * 1_000_000 + "\n",
        "0123456789" * 1_000_000,
    ),
    "stdin sized by fstat": (
        "import os, io\nsize = os.fstat(0).st_size\nprint(len(os.read(0, size)), io.BytesIO().getvalue())",
        "abc\n",
        "4 b''",
    ),
    "final newline": ("import sys\nprint(repr(sys.stdin.read()))", "a\n\n", "'a\\n\\n'"),
    "no final newline": ("import sys\nprint(repr(sys.stdin.read()))", "a", "'a'"),
    "/dev/stdin": ("print(open('/dev/stdin').read() + open(0).read())", "7", "77"),
    "/dev/stdout": ("open('/dev/stdout', 'w').write(input())", "7", "7"),
    "stdin as bytes": ("import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))", "3 4\n", "7"),
    "UTF-8": ("print(input()[::-1])", "äöü\n", "üöä"),
    "threads": (
        "import threading\nr = []\nt = [threading.Thread(target=r.append, args=(i,)) for i in range(8)]\n"
        "[x.start() for x in t]\n[x.join() for x in t]\nprint(sorted(r))",
        "",
        "[0, 1, 2, 3, 4, 5, 6, 7]",
    ),
    "thread that outlives main": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print(7))).start()",
        "",
        "7",
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(50000))",
        "",
        "50000",
    ),
    "deep recursion in C": (
        "import sys\nsys.setrecursionlimit(10**6)\nfrom functools import lru_cache\n"
        "@lru_cache(None)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(20000))",
        "",
        "20000",
    ),
    "recursion in a thread with a big stack": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def f(n): return n and 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(100000)))\n"
        "t.start()\nt.join()",
        "",
        "100000",
    ),
    "asyncio": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 7\nprint(asyncio.run(f()))",
        "",
        "7",
    ),
    "processes": (
        "import os\nr, w = os.pipe()\n"
        "if os.fork() == 0:\n    os.write(w, b'9')\n    os._exit(0)\n"
        "os.wait()\nprint(os.read(r, 9).decode())",
        "",
        "9",
    ),
    "pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor as T\n"
        "with T(2) as p: print(list(p.map(lambda x: x * x, [1, 2, 3])))",
        "",
        "[1, 4, 9]",
    ),
    "pickle of its own class": (
        "import pickle\nclass A: x = 7\nprint(pickle.loads(pickle.dumps(A())).x)",
        "",
        "7",
    ),
    "dataclass and annotations": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(7), __annotations__)",
        "",
        "P(x=7) {}",
    ),
    "temporary files": (
        "import tempfile, os\nwith tempfile.TemporaryFile('w+') as f:\n    f.write('7')\n    f.seek(0)\n"
        "    print(f.read())\nprint(os.listdir('.'))",
        "",
        "7 []",
    ),
    "shell": ("import subprocess\nprint(subprocess.check_output(['echo', '7'], text=True))", "", "7"),
    "modules that are not loaded beforehand": (
        "import statistics, wave, sqlite3, csv, hashlib, uuid, xml.dom.minidom, encodings.cp1252\nprint(7)",
        "",
        "7",
    ),
    "source of the program": (
        "import inspect\ndef f(): return 7\nprint(inspect.getsource(f))",
        "",
        "def f(): return 7",
    ),
    "tell and seek": ("import sys\nx = input()\nsys.stdin.seek(0)\nprint(x + input())", "7\n", "77"),
    "attributes of the streams": (
        "import sys\nfor f in (sys.stdin, sys.stdout, sys.stderr):\n"
        "    print(f.name, f.mode, f.encoding, f.fileno(), f.isatty(), f.buffer.mode, f.line_buffering)\n"
        "print(sys.stdin.seekable(), sys.stdout.seekable(), sys.stdin.errors, sys.stderr.errors)",
        "",
        "<stdin> r utf-8 0 False rb False\n<stdout> w utf-8 1 False wb False\n"
        "<stderr> w utf-8 2 False wb True\nTrue False surrogateescape backslashreplace",
    ),
    "interpreter flags": (
        "import sys\nprint(sys.argv, __name__, __file__)",
        "",
        "['solution.py'] __main__ solution.py",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs(sandbox: Sandbox, name: str) -> None:
    code, stdin, expected = HONEST[name]
    result = sandbox.run(code, stdin, expected)
    assert result.verdict is Verdict.ACCEPTED, result


def test_random_is_the_same_in_each_run(sandbox: Sandbox) -> None:
    code = "import random\nprint(random.random(), hash('x'), list({'a', 'b', 'c', 'd'}))"
    report = sandbox.judge(code, [("", "")] * 6)
    assert len({result.stdout for result in report.results}) == 1


def test_runs_do_not_see_each_other(sandbox: Sandbox) -> None:
    leave = (
        "import builtins, os\nbuiltins.left = 1\nopen('left', 'w').close()\nos.mkdir('d')\nos.chmod('d', 0)"
    )
    look = "import builtins, os\nprint(hasattr(builtins, 'left'), os.listdir('.'))"
    for _ in range(4):
        assert sandbox.run(leave).verdict is Verdict.ACCEPTED
        assert sandbox.run(look, expected="False []").verdict is Verdict.ACCEPTED


def test_output_that_is_no_utf8_is_reported_and_wrong(sandbox: Sandbox) -> None:
    result = sandbox.run("import sys\nsys.stdout.buffer.write(b'\\xff7')", expected="\ufffd7")
    assert result.verdict is Verdict.WRONG_ANSWER
    assert result.stdout == "\ufffd7"


def test_an_empty_list_of_tests_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ExecutorError, match="empty list of tests"):
        sandbox.judge("print(7)", [])


def test_the_rule_is_used(sandbox: Sandbox) -> None:
    assert not sandbox.judge("print('YES')", [("", "yes")]).passed
    assert sandbox.judge("print('YES')", [("", "yes")], rule=OutputRule(ignore_case=True)).passed


def test_two_hundred_mixed_runs_at_once(sandbox: Sandbox) -> None:
    kinds = [
        ("print(7)", Verdict.ACCEPTED),
        ("print(8)", Verdict.WRONG_ANSWER),
        ("1 / 0", Verdict.RUNTIME_ERROR),
        ("print(", Verdict.SYNTAX_ERROR),
        ("bytearray(8 << 30)", Verdict.MEMORY_LIMIT),
        ("import time\ntime.sleep(9)", Verdict.TIME_LIMIT),
        ("while True: print('x' * 9999)", Verdict.OUTPUT_LIMIT),
    ]
    limits = replace(LIMITS, wall_s=3.0, output_bytes=1 << 20)
    quick = replace(limits, wall_s=0.05)

    async def one(index: int) -> bool:
        code, wanted = kinds[index % len(kinds)]
        used = quick if wanted is Verdict.TIME_LIMIT else limits
        tests = [TestCase(stdin="", expected_stdout="7\n")]
        report = await sandbox.executor.judge(
            code, tests, limits=used, rule=OutputRule(), stop_at_first_failure=False
        )
        return report.results[0].verdict is wanted

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(one(index) for index in range(200)))

    assert all(sandbox.loop.run_until_complete(all_of_them()))


@pytest.mark.slow
def test_a_worker_is_kept_for_the_next_solution(loop: asyncio.AbstractEventLoop) -> None:
    """Without the bound the sleeping solution has both workers, and the quick one waits for it."""
    sandbox = Sandbox(SubprocessExecutor(workers=2, workers_per_solution=1), loop)

    async def judged(code: str, tests: int) -> bool:
        cases = [TestCase(stdin="", expected_stdout="7")] * tests
        report = await sandbox.executor.judge(
            code, cases, limits=LIMITS, rule=RULE, stop_at_first_failure=False
        )
        return report.passed

    async def both() -> bool:
        sleeping = asyncio.create_task(judged("import time\ntime.sleep(2)\nprint(7)", 2))
        await asyncio.sleep(0.5)
        assert await judged("print(7)", 1)
        early = not sleeping.done()
        assert await sleeping
        return early

    try:
        assert loop.run_until_complete(both())
    finally:
        sandbox.executor.close_now()


def test_the_class_is_an_executor_and_refuses_nonsense() -> None:
    assert isinstance(SubprocessExecutor(), Executor)
    with pytest.raises(ConfigError, match="workers=0"):
        SubprocessExecutor(workers=0)
    with pytest.raises(ConfigError, match="workers_per_solution is 0; needed: at least 1, or null"):
        SubprocessExecutor(workers_per_solution=0)
