"""Files, functions and checkers on real programs, with the cheats that they invite."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest
from sandboxing import LIMITS, RULE, Sandbox

from rlef_lightning.errors import ExecutorError
from rlef_lightning.types import Interface, OutputRule, Report, TestCase, TestResult, Verdict

FILES = Interface(input_file="sum.in", output_file="sum.out")
FUNCTION = Interface(function="f")


def with_files(
    sandbox: Sandbox, code: str, expected: str = "7\n", interface: Interface = FILES
) -> TestResult:
    limits = replace(LIMITS, output_bytes=1 << 20)
    return sandbox.judge(code, [("3 4\n", expected)], limits, interface=interface).results[0]


def call(sandbox: Sandbox, code: str, *tests: tuple[str, str]) -> Report:
    return sandbox.judge(code, tests, interface=FUNCTION)


def value(sandbox: Sandbox, code: str, expected: str = "7", arguments: str = "()") -> TestResult:
    return call(sandbox, code, (arguments, expected)).results[0]


def test_input_and_output_in_files(sandbox: Sandbox) -> None:
    code = (
        "a, b = map(int, open('sum.in').read().split())\nopen('sum.out', 'w').write(f'{a + b}\\n')\nprint(1)"
    )
    result = with_files(sandbox, code)
    assert result.verdict is Verdict.ACCEPTED
    assert result.stdout == "7\n"
    assert with_files(sandbox, code, "8").verdict is Verdict.WRONG_ANSWER


def test_only_one_of_both_in_a_file(sandbox: Sandbox) -> None:
    reads = "print(sum(map(int, open('sum.in').read().split())))"
    writes = "open('sum.out', 'w').write(str(sum(map(int, input().split()))))"
    assert with_files(sandbox, reads, interface=Interface(input_file="sum.in")).passed
    assert with_files(sandbox, writes, interface=Interface(output_file="sum.out")).passed


def test_stdin_is_empty_when_the_input_is_a_file(sandbox: Sandbox) -> None:
    code = "import sys\nopen('sum.out', 'w').write(repr(sys.stdin.read()))"
    assert with_files(sandbox, code, "''").passed


def test_input_and_output_may_be_the_same_file(sandbox: Sandbox) -> None:
    code = "with open('data', 'a') as file: file.write('7\\n')"
    assert with_files(sandbox, code, "3 4 7", Interface(input_file="data", output_file="data")).verdict is (
        Verdict.ACCEPTED
    )


def test_no_file_is_an_empty_answer(sandbox: Sandbox) -> None:
    result = with_files(sandbox, "print(7)")
    assert result.verdict is Verdict.WRONG_ANSWER
    assert result.stdout == ""


def test_the_file_of_an_earlier_run_is_gone(sandbox: Sandbox) -> None:
    assert with_files(sandbox, "open('sum.out', 'w').write('7')").passed
    for _ in range(sandbox.executor.workers * 2):
        assert not with_files(sandbox, "pass").passed


def test_a_file_beyond_the_output_limit(sandbox: Sandbox) -> None:
    fits, breaks = (f"open('sum.out', 'w').write('x' * {size})" for size in (1 << 20, (1 << 20) + 1))
    assert with_files(sandbox, fits).verdict is Verdict.WRONG_ANSWER
    assert with_files(sandbox, breaks).verdict is Verdict.OUTPUT_LIMIT


def test_a_file_does_not_excuse_a_failure(sandbox: Sandbox) -> None:
    write = "open('sum.out', 'w').write('7')\n"
    assert with_files(sandbox, write + "raise SystemExit(1)").verdict is Verdict.RUNTIME_ERROR


@pytest.mark.parametrize(
    "make",
    [
        "os.symlink('/etc/hostname', 'sum.out')",
        "os.symlink('real', 'sum.out')\nopen('real', 'w').write('7')",
        "os.mkfifo('sum.out')",
        "os.mkdir('sum.out')",
        "open('sum.out', 'w').write('7')\nos.chmod('sum.out', 0)\nos.rename('sum.out', 'x')",
    ],
)
def test_only_a_plain_file_is_an_answer(sandbox: Sandbox, make: str) -> None:
    result = with_files(sandbox, f"import os\n{make}")
    assert result.verdict is Verdict.WRONG_ANSWER
    assert result.stdout == ""


def test_a_file_written_after_the_end_does_not_count(sandbox: Sandbox) -> None:
    late = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1)\n"
        "    open('sum.out', 'w').write('7')"
    )
    assert not with_files(sandbox, late).passed


def test_values_of_a_function(sandbox: Sandbox) -> None:
    code = "def f(a, b):\n    print('noise')\n    return [a + b, {'a': (a, b)}]"
    tests = [
        ("(3, 4)", "[7, {'a': (3, 4)}]"),
        ("(3, 4)", "[7, {'a': [3, 4]}]"),
        ("(1, 2.5)", "[3.5, {'a': (1, 2.5)}]"),
    ]
    report = call(sandbox, code, *tests)
    assert [r.passed for r in report.results] == [True, False, True]
    assert report.results[1].stdout == "[7, {'a': (3, 4)}]"


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("def g(): return 7", Verdict.RUNTIME_ERROR),
        ("f = 7", Verdict.RUNTIME_ERROR),
        ("def f(a): return 7", Verdict.RUNTIME_ERROR),
        ("def f(): return 7 / 0", Verdict.RUNTIME_ERROR),
        ("def f(:", Verdict.SYNTAX_ERROR),
        ("def f():\n    while True: pass", Verdict.TIME_LIMIT),
        ("def f(): return [0] * (1 << 32)", Verdict.MEMORY_LIMIT),
        ("def f(): return '7' * (9 << 20)", Verdict.OUTPUT_LIMIT),
        ("def f(): return (i for i in [7])", Verdict.WRONG_ANSWER),
        ("def f(): print(7)", Verdict.WRONG_ANSWER),
        ("f = lambda: 7", Verdict.ACCEPTED),
        ("from fractions import Fraction\ndef f(): return Fraction(14, 2)", Verdict.ACCEPTED),
        ("from decimal import Decimal\ndef f(): return Decimal('7.00')", Verdict.ACCEPTED),
        ("import enum\nclass E(enum.IntEnum):\n    A = 7\ndef f(): return E.A", Verdict.ACCEPTED),
        ("import enum\nclass E(enum.Enum):\n    A = 7\ndef f(): return E.A", Verdict.WRONG_ANSWER),
        ("def f(): return 7\nif __name__ == '__main__': f = None", Verdict.ACCEPTED),
        (
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\ndef f(): return A(7).x",
            Verdict.ACCEPTED,
        ),
    ],
)  # fmt: skip
def test_how_calls_end(sandbox: Sandbox, code: str, wanted: Verdict) -> None:
    assert value(sandbox, code).verdict is wanted


def test_large_values(sandbox: Sandbox) -> None:
    numbers, text = list(range(30000)), "x" * 30000
    tests = [
        ("(30000,)", repr([numbers, text])),
        ("(30000,)", repr([numbers, text[1:] + "y"])),
        ("(3,)", "[[0, 1, 2], 'xxx']"),
    ]
    report = call(sandbox, "def f(n): return [list(range(n)), 'x' * n]", *tests)
    assert [r.passed for r in report.results] == [True, False, True]
    assert report.results[0].stdout.startswith("[[0, 1, 2, 3, ")
    assert len(report.results[0].stdout) == sandbox.executor.report_chars


def test_an_exception_in_a_call_shows_the_programs_own_frames(sandbox: Sandbox) -> None:
    result = value(sandbox, "def f():\n    return 7 / 0")
    assert result.stderr.startswith(
        'Traceback (most recent call last):\n  File "solution.py", line 2, in f\n'
    )
    assert result.stderr.count("File ") == 1


def test_nothing_is_left_of_an_earlier_call(sandbox: Sandbox) -> None:
    code = (
        "seen = []\ndef f(items, known=[]):\n    items.append(7)\n    known.append(7)\n    seen.append(7)\n"
        "    return (items, known, seen)"
    )
    report = call(sandbox, code, *[("([],)", "([7], [7], [7])")] * 6)
    assert report.passed


ALWAYS = "class A:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
CHEATS = {
    "leaves before the call": "import sys\nsys.exit(0)",
    "leaves in the call": "def f(): raise SystemExit(0)",
    "leaves at once": "import os\ndef f(): os._exit(0)",
    "leaves at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(): return 1 / 0",
    "equals everything": ALWAYS + "def f(): return A()",
    "equals everything inside": ALWAYS + "def f(): return [A()]",
    "is a special int": "class A(int):\n    def __eq__(self, other): return True\ndef f(): return A(8)",
    "is a special str": "class A(str):\n    def __eq__(self, other): return True\ndef f(): return A('8')",
    "replaces json": "import json\njson.dumps = lambda *a, **k: '7'\ndef f(): return 8",
    "forges a reference": "import os\ndef f():\n    os.write(4, b'[\"expected\"]')\n    os._exit(0)",
    "writes twice": "import os\ndef f():\n    os.write(4, b'8')\n    return 9",
    "closes the pipe": "import os\ndef f():\n    os.close(4)\n    return 8",
    "writes late": "import threading, os, time\ndef late():\n    time.sleep(0.1)\n    os.write(4, b'8')\n"
    "threading.Thread(target=late, daemon=True).start()\ndef f(): return [8]",
    "fills the pipe": "import os\ndef f():\n    for _ in range(99): os.write(4, b'[' * 9999)\n"
    "    os._exit(0)",
    "looks for a result": "import glob, sys\ndef f(): return glob.glob('*') or sys.argv[1:] or 8",
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_not_accepted(sandbox: Sandbox, name: str) -> None:
    assert not value(sandbox, CHEATS[name]).passed


UP_THE_STACK = """import sys
def f():
    frame, found = sys._getframe(), []
    while frame:
        found += [value for value in frame.f_locals.values() if value == 70007]
        frame = frame.f_back
    return found[0] if found else 8
"""


def test_the_expected_value_is_not_up_the_stack(sandbox: Sandbox) -> None:
    """A number that no descriptor has, which do stand there."""
    assert value(sandbox, UP_THE_STACK.replace("[]", "[70007]"), expected="70007").passed
    assert value(sandbox, UP_THE_STACK, expected="70007").stdout == "8"


SEARCH = """
def f(text):
    wanted, hits = text[::-1].encode(), 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            try:
                memory.seek(start)
                hits += memory.read(end - start).count(wanted)
            except (OSError, OverflowError, ValueError):
                pass
    return hits > 1  # `wanted` itself is there
"""


def test_the_expected_value_is_nowhere_in_the_process(sandbox: Sandbox) -> None:
    secret = "wanted-4711-tpyrc"
    backwards = f"({secret[::-1]!r},)"
    assert value(sandbox, f"known = {secret!r}\n" + SEARCH, "True", backwards).passed  # it would be found
    assert value(sandbox, SEARCH, repr(secret), backwards).stdout == "False"


def test_a_wide_set_does_not_hold_up_others(sandbox: Sandbox) -> None:
    """Numbers of one hash would take for ever to put into a set; other programs are judged beside it."""
    collide = "def f(): return {i * ((1 << 61) - 1) for i in range(1, 2)} | {7}"
    forged = (
        "import os\ndef f():\n    numbers = ','.join(str(i * ((1 << 61) - 1)) for i in range(100000))\n"
        "    data = f'[\"set\",{numbers}]'.encode()\n    while data: data = data[os.write(4, data):]\n"
        "    os._exit(0)"
    )
    assert value(sandbox, collide, "{7, 2305843009213693951}").passed
    judge = partial(
        sandbox.executor.judge, limits=LIMITS, rule=RULE, stop_at_first_failure=True, interface=FUNCTION
    )

    async def main() -> list[Report]:
        wide = judge(forged, [TestCase(stdin="()", expected_stdout="{7}")])
        others = [
            judge("def f(): return 7", [TestCase(stdin="()", expected_stdout="7")] * 4) for _ in range(4)
        ]
        return await asyncio.wait_for(asyncio.gather(wide, *others), 120)

    report, *others = sandbox.loop.run_until_complete(main())
    assert report.results[0].verdict is Verdict.WRONG_ANSWER
    assert all(other.passed for other in others)


LARGER = (
    "import sys\nwith open(sys.argv[1]) as file: limit = int(file.read())\n"
    "with open(sys.argv[2]) as file: answer = int(file.read())\n"
    "open(sys.argv[3] + 'judgemessage.txt', 'w').write('seen')\n"
    "found = int(sys.stdin.read())\nsys.exit(42 if limit < found <= answer else 43)"
)


def check(sandbox: Sandbox, code: str, checker: str = LARGER, interface: Interface = Interface()) -> Report:  # noqa: B008
    tests = [("(3,)" if interface.function else "3", "9")]
    return sandbox.judge(code, tests, rule=replace(RULE, checker=checker), interface=interface)


@pytest.mark.parametrize(("code", "passes"), [("print(4)", True), ("print(9)", True), ("print(3)", False)])
def test_a_checker_decides(sandbox: Sandbox, code: str, passes: bool) -> None:
    report = check(sandbox, code)
    assert report.passed is passes
    assert report.results[0].verdict is (Verdict.ACCEPTED if passes else Verdict.WRONG_ANSWER)


def test_a_checker_reads_a_functions_value(sandbox: Sandbox) -> None:
    checker = "import ast, sys\nsys.exit(42 if set(ast.literal_eval(sys.stdin.read())) == {1, 2} else 43)"
    assert check(sandbox, "def f(x): return [2, 1, 2]", checker, FUNCTION).passed
    assert not check(sandbox, "def f(x): return (1,)", checker, FUNCTION).passed
    assert not check(sandbox, "import os\ndef f(x): os._exit(0)", checker, FUNCTION).passed


@pytest.mark.parametrize(
    ("checker", "said"),
    [
        ("raise SystemExit(1)", "status 1"),
        ("print(1 / 0)", "ZeroDivisionError"),
        ("pass", "status 0"),
        ("(", "does not compile"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", "status -15"),
    ],
)
def test_a_checker_that_fails_is_an_error(sandbox: Sandbox, checker: str, said: str) -> None:
    with pytest.raises(ExecutorError, match=r"rule\.checker") as caught:
        check(sandbox, "print(4)", checker)
    assert said in str(caught.value)


def test_the_answer_file_exists_for_the_checker_only(sandbox: Sandbox) -> None:
    look = (
        "import glob, sys\nprint(4)\n"
        "print(glob.glob('*') + glob.glob('../*/answer') + sys.argv[1:], file=sys.stderr)"
    )
    for _ in range(sandbox.executor.workers * 2):
        assert check(sandbox, look).results[0].stderr == "[]\n"


def test_one_program_at_a_time_when_alone(sandbox: Sandbox) -> None:
    """A program near its limit, among others, gets a verdict and does not stop the others."""
    spin = "import time\nend = time.process_time() + 0.315\nwhile time.process_time() < end: pass\nprint(7)"
    near = replace(LIMITS, cpu_s=0.3)

    async def main() -> list[Report]:
        tests = [TestCase(stdin="", expected_stdout="7")]
        judge = partial(sandbox.executor.judge, rule=OutputRule(), stop_at_first_failure=True)
        slow = judge(spin, tests, limits=near)
        others = [judge("print(7)", tests * 3, limits=LIMITS) for _ in range(6)]
        return await asyncio.gather(slow, *others)

    slow, *others = sandbox.loop.run_until_complete(main())
    assert slow.results[0].verdict is Verdict.TIME_LIMIT
    assert all(report.passed for report in others)


HOLD = (
    "import mmap, os, time\nfor _ in range({count}):\n    if os.fork() == 0:\n"
    "        x = {make}\n        for i in range(0, len(x), 4096): x[i] = 1\n"
    "        time.sleep(5)\n        os._exit(0)\ntime.sleep(5)"
)


@pytest.mark.parametrize("kind", ["bytearray", "mmap.mmap"])
def test_memory_of_all_processes_together(sandbox: Sandbox, kind: str) -> None:
    limits = replace(LIMITS, memory_bytes=256 << 20)
    arguments = "60 << 20" if kind == "bytearray" else "-1, 60 << 20"
    result = sandbox.run(HOLD.format(count=8, make=f"{kind}({arguments})"), limits=limits)
    assert result.verdict is Verdict.MEMORY_LIMIT
    assert 256 << 20 < result.peak_memory_bytes < 600 << 20


def test_pages_shared_after_a_fork_are_counted_once(sandbox: Sandbox) -> None:
    code = (
        "import os, time\nx = bytearray(100 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\n"
        "for _ in range(6):\n    if os.fork() == 0:\n        time.sleep(0.3)\n        os._exit(0)\n"
        "time.sleep(0.4)\nprint(7)"
    )
    assert sandbox.run(code, expected="7", limits=replace(LIMITS, memory_bytes=256 << 20)).passed


def test_a_program_that_kills_itself_has_failed(sandbox: Sandbox) -> None:
    result = sandbox.run("import os, signal\nprint(7)\nos.kill(os.getpid(), signal.SIGKILL)", expected="7")
    assert result.verdict is Verdict.RUNTIME_ERROR
