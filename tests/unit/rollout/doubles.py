"""An engine and an executor that follow a script, and the small world in which they are used.

Tokens are those of a real tokenizer under a real chat template, so that contexts are what they are in
a run. Programs are words that say what becomes of them: see `ScriptedExecutor`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dialogue.templates import CHATML, make_tokenizer

from rlef_lightning.dialogue import ChatFormat
from rlef_lightning.errors import EngineError, ExecutorError
from rlef_lightning.generation import RequestFailed
from rlef_lightning.types import (
    Completion,
    Interface,
    Limits,
    OutputRule,
    Problem,
    Report,
    Sampling,
    TestCase,
    TestResult,
    Verdict,
)

END_OF_TURN = "<|im_end|>"
ASSISTANT = "<|im_start|>assistant"

Request = tuple[tuple[int, ...], int]
"""Prompt ids and seed: what a batch of the engine is told apart by."""
Script = Callable[[str, int], str]
"""The prompt's text and the number of earlier responses in it -> the next response."""


@cache
def tokenizer() -> Any:
    """A small byte-level tokenizer."""
    return make_tokenizer(CHATML)


@cache
def chat_format() -> ChatFormat:
    """Its chat format."""
    return ChatFormat(tokenizer())


def ids_of(text: str) -> tuple[int, ...]:
    """The text's ids, control tokens included."""
    return tuple(tokenizer()(text, add_special_tokens=False)["input_ids"])


def text_of(ids: Sequence[int]) -> str:
    """The text of ids, control tokens included."""
    return str(tokenizer().decode(ids))


def program(code: str) -> str:
    """A response that holds the program."""
    return f"```python\n{code}\n```"


def problem(name: str) -> Problem:
    """A problem whose tests carry its name, in capitals in all that only private tests hold."""
    return Problem(
        id=name,
        statement=f"Solve {name}.",
        public_tests=(TestCase(stdin=f"input-of-{name}\n", expected_stdout="1\n"),),
        private_tests=(TestCase(stdin=f"SECRET-{name}\n", expected_stdout="2\n"),) * 2,
        limits=Limits(cpu_s=3.0),
        rule=OutputRule(ignore_case=True),
    )


def always(names: Iterable[str], *answers: str) -> dict[str, Sequence[str]]:
    """The same responses to each of these problems."""
    return dict.fromkeys(names, answers)


def dialogues(answers: dict[str, Sequence[str]]) -> Script:
    """The responses to each problem by its name, turn by turn; the last is repeated."""

    def script(prompt: str, turn: int) -> str:
        name = next(name for name in answers if f"Solve {name}." in prompt)
        return answers[name][min(turn, len(answers[name]) - 1)]

    return script


PROGRAM = Interface()


class Gauge:
    """How many waits there are at a time, and how many there were at most."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def __enter__(self) -> None:
        self.add(1)

    def __exit__(self, *exception: object) -> None:
        self.add(-1)

    def add(self, number: int) -> None:
        """More or fewer waits."""
        self.now += number
        self.peak = max(self.peak, self.now)


@dataclass(slots=True)
class _Waiting:
    request: Request
    steps_left: int
    answer: Completion | RequestFailed
    future: asyncio.Future[Completion]


class ScriptedEngine:
    """Fulfils `generation.Engine`: answers by a script, each request after a number of steps.

    Args:
        script: What is answered.
        steps: Steps until the answer to (prompt text, seed) is there.
        logprob: Of every token of the response to (prompt text, seed).
        max_context_tokens: As in the protocol.
        fail_at_step: The step, from 0, that raises EngineError.
        refuse: Requests (prompt texts) for which `submit` raises EngineError.
        ends: How the response to a prompt text ends, where not by itself; a RequestFailed: it has none.
        gauge: Counts requests.
    """

    def __init__(
        self,
        script: Script,
        *,
        steps: Callable[[str, int], int] = lambda prompt, seed: 1,
        logprob: Callable[[str, int], float] = lambda prompt, seed: -0.5,
        max_context_tokens: int = 100_000,
        fail_at_step: int | None = None,
        refuse: Callable[[str], bool] = lambda prompt: False,
        ends: Callable[[str], str | RequestFailed | None] = lambda prompt: None,
        gauge: Gauge | None = None,
    ) -> None:
        self._script, self._steps, self._logprob = script, steps, logprob
        self._fail_at_step, self._refuse, self._ends = fail_at_step, refuse, ends
        self._max_context_tokens = max_context_tokens
        self._gauge = gauge or Gauge()
        self._waiting: list[_Waiting] = []
        self.policy_version = 7
        self.requests: list[tuple[tuple[int, ...], Sampling, int]] = []
        self.batches: list[tuple[Request, ...]] = []
        """What each step worked on, in the order of submission."""
        self.aborts = 0

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    def start(self, model_folder: str, stop_token_ids: Sequence[int]) -> None:
        pass

    def submit(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, seed: int
    ) -> asyncio.Future[Completion]:
        prompt, text = tuple(prompt_token_ids), text_of(prompt_token_ids)
        if self._refuse(text):
            raise EngineError("the request is refused")
        self.requests.append((prompt, sampling, seed))
        ids = ids_of(self._script(text, text.count(ASSISTANT) - 1) + END_OF_TURN)
        cut = ids[: sampling.max_response_tokens]
        end = self._ends(text)
        answer: Completion | RequestFailed = Completion(
            token_ids=cut,
            logprobs=(self._logprob(text, seed),) * len(cut),
            finish_reason=str(end or ("stop" if cut == ids else "length")),
            policy_version=self.policy_version,
        )
        answer = end if isinstance(end, RequestFailed) else answer
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting((prompt, seed), self._steps(text, seed), answer, future))
        self._gauge.add(1)
        return future

    def step(self) -> None:
        if self._fail_at_step == len(self.batches):
            raise EngineError("the step fails")
        given_up = [waiting for waiting in self._waiting if waiting.future.cancelled()]
        self._waiting = [waiting for waiting in self._waiting if not waiting.future.cancelled()]
        self._gauge.add(-len(given_up))
        self.batches.append(tuple(waiting.request for waiting in self._waiting))
        for waiting in self._waiting:
            waiting.steps_left -= 1
        done = [waiting for waiting in self._waiting if waiting.steps_left <= 0]
        self._waiting = [waiting for waiting in self._waiting if waiting.steps_left > 0]
        for waiting in done:
            if isinstance(waiting.answer, RequestFailed):
                waiting.future.set_exception(waiting.answer)
            else:
                waiting.future.set_result(waiting.answer)
        self._gauge.add(-len(done))

    def abort(self) -> None:
        self.aborts += 1
        self._waiting.clear()

    def sync_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        self.policy_version += 1

    def prompt_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-0.5] * (len(ids) - 1) for ids in sequences]

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Judgement:
    """One call of `judge`."""

    code: str
    private: bool
    limits: Limits
    rule: OutputRule
    stop_at_first_failure: bool


async def at_once(code: str) -> None:
    """No wait."""


class ScriptedExecutor:
    """Fulfils `execution.Executor`. A program is a word, and whatever may follow it:

    "right" passes everything, "half" the public tests only, "wrong" nothing; "torn" does not compile;
    for "break" the sandbox fails on the public tests, for "late-break" on the private ones.

    Args:
        wait: How long a program runs: awaited before its report is there.
        gauge: Counts programs that run.
    """

    def __init__(self, wait: Callable[[str], Awaitable[None]] = at_once, gauge: Gauge | None = None) -> None:
        self._wait = wait
        self._gauge = gauge or Gauge()
        self.started = False
        self.calls: list[Judgement] = []

    async def start(self) -> None:
        self.started = True

    async def judge(
        self,
        code: str,
        tests: Sequence[TestCase],
        *,
        limits: Limits,
        rule: OutputRule,
        stop_at_first_failure: bool,
        interface: Interface = PROGRAM,
    ) -> Report:
        assert self.started
        private = "SECRET" in tests[0].stdin
        self.calls.append(Judgement(code, private, limits, rule, stop_at_first_failure))
        with self._gauge:
            await self._wait(code)
        word = code.split(maxsplit=1)[0]
        if word == ("late-break" if private else "break"):
            raise ExecutorError(f"the sandbox failed on {code}")
        return report_of(_VERDICTS[word][private], len(tests), stdout=f"said by {code}\n")

    async def close(self) -> None:
        self.started = False


_VERDICTS = {
    "right": (Verdict.ACCEPTED, Verdict.ACCEPTED),
    "half": (Verdict.ACCEPTED, Verdict.WRONG_ANSWER),
    "wrong": (Verdict.WRONG_ANSWER, Verdict.WRONG_ANSWER),
    "torn": (Verdict.SYNTAX_ERROR, Verdict.SYNTAX_ERROR),
    "late-break": (Verdict.ACCEPTED, Verdict.ACCEPTED),
}


def report_of(verdict: Verdict, count: int, stdout: str = "") -> Report:
    """A report with the same result for each test."""
    result = TestResult(
        verdict=verdict, stdout=stdout, stderr="", cpu_s=0.25, wall_s=0.5, peak_memory_bytes=1 << 20
    )
    return Report(results=(result,) * count)


def loop_turns(turns: Callable[[], int]) -> Callable[[str], Awaitable[None]]:
    """Programs that run for a number of turns of the event loop, drawn for each."""

    async def wait(code: str) -> None:
        for _ in range(turns()):
            await asyncio.sleep(0)

    return wait
