"""Problem -> Episode: one dialogue, from the statement to the verdict (RLEF, sec. 2.1).

A coroutine: it waits for the engine and the executor through the schedule and holds up nobody else.
It does not choose problems, count metrics or know rewards.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from rlef_lightning.dialogue import ChatFormat, Prompts, answer_in, extract_code, render_first_message
from rlef_lightning.errors import DataError, EngineError
from rlef_lightning.execution import Executor
from rlef_lightning.generation import RequestFailed
from rlef_lightning.generation.engine import FINISHED
from rlef_lightning.rollout.feedback import FeedbackSource
from rlef_lightning.rollout.schedule import Schedule
from rlef_lightning.rollout.settings import PlaySettings
from rlef_lightning.types import Completion, Episode, Problem, Report, StopReason, Turn


class BadCompletion(EngineError):
    """The engine returned numbers that cannot be trained on."""


def derive_seed(*parts: object) -> int:
    """A seed of 63 bits from anything with a text form; stable over processes and machines."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All that an episode is played with."""

    schedule: Schedule
    executor: Executor
    chat: ChatFormat
    prompts: Prompts
    feedback: FeedbackSource
    settings: PlaySettings
    max_context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Which episode is played."""

    problem: Problem
    sample_index: int
    seed: int


async def play(seat: Seat, table: Table) -> Episode:
    """Play one episode to its end.

    Raises:
        DataError: the first prompt and a response do not fit into the context.
        ExecutorError: the sandbox failed after its retries; the episode has no verdict.
        BadCompletion: a log-probability is not a finite number.
        RequestFailed: the engine gave a request up, or ended a response neither by itself nor at its length.
    """
    prompt = table.chat.first_prompt(render_first_message(table.prompts, seat.problem.statement))
    if not _fits(prompt, table):
        raise DataError(_too_long(seat.problem, prompt, table))
    turns: list[Turn] = []
    reason = StopReason.TURN_LIMIT
    while True:
        turn = await _take_turn(prompt, len(turns), seat, table)
        following = _next_prompt(turn, table)
        if turn.passed_public and table.settings.ends_on_pass:
            reason = StopReason.PUBLIC_TESTS_PASSED
        elif following is not None and not _fits(following, table):
            reason = StopReason.CONTEXT_LIMIT
        last = following is None or reason is not StopReason.TURN_LIMIT
        turns.append(_without_feedback(turn) if last else turn)
        if last or following is None:
            return await _judge_finally(seat, tuple(turns), reason, table)
        prompt = following


async def _take_turn(prompt: tuple[int, ...], index: int, seat: Seat, table: Table) -> Turn:
    seed = derive_seed(seat.seed, index)
    completion = await table.schedule.generate(prompt, table.settings.sampling, seed)
    _check_usable(completion, seat)
    response = table.chat.decode(completion.token_ids)
    code = _code_in(response, completion, table.settings)
    report = None if code is None else await _judge(code, seat.problem, table, private=False)
    ended = report is not None and report.passed and table.settings.ends_on_pass
    told = not ended and index + 1 < table.settings.turn_limit
    return Turn(
        prompt_token_ids=prompt,
        completion=completion,
        response=response,
        code=code,
        public_report=report,
        feedback=table.feedback(seat.problem, report, seed) if told else None,
    )


def _code_in(response: str, completion: Completion, settings: PlaySettings) -> str | None:
    if completion.finish_reason == "length" and settings.cut_responses != "read":
        return None
    answer = answer_in(response, settings.answer_after)
    return None if answer is None else extract_code(answer)


def _next_prompt(turn: Turn, table: Table) -> tuple[int, ...] | None:
    if turn.feedback is None:
        return None
    return table.chat.continue_prompt(turn.prompt_token_ids, turn.completion.token_ids, turn.feedback)


def _without_feedback(turn: Turn) -> Turn:
    """The last turn is told nothing, even if feedback had been prepared that no longer fitted."""
    return Turn(
        prompt_token_ids=turn.prompt_token_ids,
        completion=turn.completion,
        response=turn.response,
        code=turn.code,
        public_report=turn.public_report,
        feedback=None,
    )


async def _judge(code: str, problem: Problem, table: Table, *, private: bool) -> Report:
    """Public tests all run, for the feedback; of the private ones only the outcome matters."""
    work = table.executor.judge(
        code,
        problem.private_tests if private else problem.public_tests,
        limits=problem.limits,
        rule=problem.rule,
        stop_at_first_failure=private,
        interface=problem.interface,
    )
    return await table.schedule.execute(work)


async def _judge_finally(seat: Seat, turns: tuple[Turn, ...], reason: StopReason, table: Table) -> Episode:
    report, code = None, turns[-1].code
    # A program that fails a public test has failed; running the private ones would change nothing.
    if turns[-1].passed_public and code is not None:
        report = await _judge(code, seat.problem, table, private=True)
    return Episode(
        problem_id=seat.problem.id,
        sample_index=seat.sample_index,
        seed=seat.seed,
        turns=turns,
        private_report=report,
        stop_reason=reason,
    )


def _fits(prompt: tuple[int, ...], table: Table) -> bool:
    return len(prompt) + table.settings.sampling.max_response_tokens <= table.max_context_tokens


def _too_long(problem: Problem, prompt: tuple[int, ...], table: Table) -> str:
    return (
        f"the first prompt of problem {problem.id!r} has {len(prompt)} tokens; with a response of "
        f"{table.settings.sampling.max_response_tokens} tokens it exceeds the context of "
        f"{table.max_context_tokens}: raise data.engine.init_args.max_context_tokens, lower "
        "max_response_tokens, or set data.long_prompts to 'skip'"
    )


def _check_usable(completion: Completion, seat: Seat) -> None:
    if completion.finish_reason not in FINISHED:
        raise RequestFailed(
            f"a response to problem {seat.problem.id!r} ended with {completion.finish_reason!r}; it must be "
            f"one of {FINISHED}"
        )
    if not all(map(math.isfinite, completion.logprobs)):
        raise BadCompletion(f"a log-probability of problem {seat.problem.id!r} is not finite")
