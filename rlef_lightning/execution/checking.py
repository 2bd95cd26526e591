"""An answer + a checker's source -> right or wrong, or ExecutorError. A checker runs as jailed as a solution.

The convention is that of the Kattis problem format: the arguments are the test's input file, its answer
file and a folder for feedback (which is not read), the solution's output comes on stdin; exit code 42 means
accepted, 43 wrong. Nothing else is an opinion: a checker that fails says nothing about the solution.
"""

from __future__ import annotations

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.answers import readable
from rlef_lightning.execution.runs import Extras, Run, RunFacts, Runner
from rlef_lightning.types import Limits, TestCase

ACCEPTED, WRONG = 42, 43
CHECKER_LIMITS = Limits()
"""The checker's own limits, whatever those of the solution."""
_ARGUMENTS = ("input", "answer", "feedback/")


async def accepts(runner: Runner, checker: str, test: TestCase, output: bytes) -> bool:
    """The checker's opinion; raises ExecutorError when it has none."""
    facts = await runner(checker_run(checker, test, output))
    if facts.stopped is None and facts.stage == "r" and facts.status in (ACCEPTED, WRONG):
        return facts.status == ACCEPTED
    raise ExecutorError(
        f"the checker (rule.checker) {_end(facts)} instead of with exit code {ACCEPTED} or {WRONG}, on the "
        f"test with the input {test.stdin[:80]!r}; it said: {readable(facts.stderr[-1000:])!r}"
    )


def checker_run(checker: str, test: TestCase, output: bytes) -> Run:
    """The files with the expected answer are in the scratch folder for this one run, by which the solution
    has ended; the folder is emptied before the next."""
    texts = (
        test.stdin.encode("utf-8", "surrogatepass"),
        test.expected_stdout.encode("utf-8", "surrogatepass"),
    )
    files = dict(zip(_ARGUMENTS, (*texts, b""), strict=True))
    return Run(
        code=checker.encode("utf-8", "surrogatepass"),
        stdin=output,
        limits=CHECKER_LIMITS,
        extras=Extras(files=files, arguments=_ARGUMENTS),
    )


def _end(facts: RunFacts) -> str:
    if facts.stopped is not None:
        return f"broke its limit on {facts.stopped}"
    return "does not compile" if facts.stage == "s" else f"ended with status {facts.status}"
