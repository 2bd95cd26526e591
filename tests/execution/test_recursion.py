"""A program can call itself as deep as under plain Python, and no deeper."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain import in_plain_python
from sandboxing import Sandbox

from rlef_lightning.types import Interface, Verdict

pytestmark = pytest.mark.slow

FUNCTION = "def f(n):\n    return n if n == 0 else 1 + f(n - 1)\n"
METHOD = "class A:\n    def f(self, n):\n        return n if n == 0 else 1 + self.f(n - 1)\nf = A().f\n"
THROUGH_C = "def f(n):\n    return n if n == 0 else 1 + max(map(f, [n - 1]))\n"
LIMIT = "import sys\nsys.setrecursionlimit(250)\n"
IN_A_THREAD = "import threading\nt = threading.Thread(target=lambda: print(f({n})))\nt.start()\nt.join()\n"
MODULE = "print(f({n}))\n"
DEEPEST = """
def deepest():
    for n in range(2000):
        try:
            f(n)
        except RecursionError:
            return n - 1
"""


@pytest.mark.parametrize("call", [MODULE, IN_A_THREAD], ids=["module", "thread"])
@pytest.mark.parametrize("code", [FUNCTION, METHOD, THROUGH_C, LIMIT + FUNCTION])
def test_a_program_goes_as_deep_as_in_plain_python(
    sandbox: Sandbox, tmp_path: Path, code: str, call: str
) -> None:
    deepest = first_failure(code, call, tmp_path) - 1
    assert sandbox.run(code + call.format(n=deepest), expected=str(deepest)).verdict is Verdict.ACCEPTED
    result = sandbox.run(code + call.format(n=deepest + 1), expected=str(deepest + 1))
    assert result.verdict is not Verdict.ACCEPTED
    assert "RecursionError: maximum recursion depth exceeded" in result.stderr


def test_an_expression_may_be_as_deep_as_in_plain_python(sandbox: Sandbox, tmp_path: Path) -> None:
    """The compiler stops at three times the limit of calls, less those in progress."""
    codes = [f"print({'+'.join('1' * n)})" for n in range(3100)]
    fits, fails = 1, 3100
    while fails - fits > 1:
        middle = (fits + fails) // 2
        right = in_plain_python(codes[middle], tmp_path).stdout == f"{middle}\n"
        fits, fails = (middle, fails) if right else (fits, middle)
    assert sandbox.run(codes[fits], expected=str(fits)).verdict is Verdict.ACCEPTED
    assert sandbox.run(codes[fails], expected=str(fails)).verdict is Verdict.SYNTAX_ERROR


def first_failure(code: str, call: str, folder: Path) -> int:
    """The lowest argument at which plain Python fails, by halving."""
    fits, fails = 1, 1000
    while fails - fits > 1:
        middle = (fits + fails) // 2
        printed = in_plain_python(code + call.format(n=middle), folder).stdout
        fits, fails = (middle, fails) if printed == f"{middle}\n" else (fits, middle)
    return fails


def test_a_function_goes_as_deep_as_one_that_a_module_calls(sandbox: Sandbox, tmp_path: Path) -> None:
    deepest = first_failure(FUNCTION, MODULE, tmp_path) - 1
    assert deepest == 998  # 1000 at most: the module, and f for 998 to 0
    tests = [(f"({n},)", str(n)) for n in (deepest, deepest + 1)]
    found = sandbox.judge(FUNCTION, tests, interface=Interface(function="f")).results
    assert [result.verdict for result in found] == [Verdict.ACCEPTED, Verdict.RUNTIME_ERROR]


def test_the_limit_is_the_usual_one_and_can_be_set(sandbox: Sandbox, tmp_path: Path) -> None:
    code = f"{FUNCTION}{DEEPEST}import sys\nprint(sys.getrecursionlimit(), deepest())\n"
    code += "sys.setrecursionlimit(1500)\nprint(sys.getrecursionlimit(), deepest())\n"
    code += "try:\n    sys.setrecursionlimit(1)\nexcept RecursionError as e:\n    print(e)\n"
    plain = in_plain_python(code, tmp_path).stdout
    assert plain.startswith("1000 ")
    assert sandbox.run(code, expected=plain).stdout == plain
