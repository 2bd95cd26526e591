"""Problems -> sampled tokens, the way the collector does not do it: all generate, all execute, repeat.

The yardstick of `lockstep_ratio`: the same engine, executor, chat and wording, and one LLM.generate call
for each turn of all episodes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rlef_lightning.dialogue import ChatFormat, Prompts, extract_code, render_feedback, render_first_message
from rlef_lightning.execution import Executor
from rlef_lightning.rollout.play import derive_seed
from rlef_lightning.types import Problem, Report, Sampling
from tools.bench.parts import ExactEngine, exact_length


@dataclass(slots=True, kw_only=True)
class LockStep:
    """What a run in lock-step took."""

    tokens: int = 0
    generating_s: float = 0.0
    generating_cpu_s: float = 0.0
    """CPU time of this process meanwhile."""
    executing_s: float = 0.0


async def play_in_lockstep(
    engine: ExactEngine,
    executor: Executor,
    chat: ChatFormat,
    prompts: Prompts,
    problems: Sequence[Problem],
    sampling: Sampling,
    turn_limit: int,
) -> LockStep:
    """Every problem once, `turn_limit` turns at most, each turn of all episodes before the next of any."""
    spent = LockStep()
    live = [(p, chat.first_prompt(render_first_message(prompts, p.statement))) for p in problems]
    for turn in range(turn_limit):
        began = time.perf_counter()
        lengths = [exact_length(sampling, derive_seed(problem.id, turn)) for problem, _ in live]
        prompts_now = [prompt for _, prompt in live]
        cpu_began = time.process_time()
        completions = engine.plain(list(zip(prompts_now, lengths, strict=True)))
        spent.generating_cpu_s += time.process_time() - cpu_began
        spent.tokens += sum(map(len, completions))
        codes = [extract_code(chat.decode(ids)) for ids in completions]
        between = time.perf_counter()
        work = (_judge(executor, code, p) for code, (p, _) in zip(codes, live, strict=True))
        reports = await asyncio.gather(*work)
        spent.executing_s += time.perf_counter() - between
        spent.generating_s += between - began
        live = [
            (problem, chat.continue_prompt(prompt, ids, render_feedback(prompts, problem.public_tests, r)))
            for (problem, prompt), ids, r in zip(live, completions, reports, strict=True)
            if r is None or not r.passed
        ]
    return spent


async def _judge(executor: Executor, code: str | None, problem: Problem) -> Report | None:
    if code is None:
        return None
    return await executor.judge(
        code,
        problem.public_tests,
        limits=problem.limits,
        rule=problem.rule,
        stop_at_first_failure=False,
        interface=problem.interface,
    )
