"""The micro problems are what they claim: solutions pass, first guesses fail in their family's way."""

from __future__ import annotations

import asyncio

from sandboxing import Sandbox

from rlef_lightning.problems.micro import MicroTask, micro_tasks
from rlef_lightning.problems.micro_families import FAMILIES
from rlef_lightning.types import Report, TestCase, Verdict

FAILURES = {
    "separator": Verdict.RUNTIME_ERROR,
    "literal": Verdict.RUNTIME_ERROR,
    "slow": Verdict.TIME_LIMIT,
}
TASKS = micro_tasks("test", 60, seed=0)


def judge_all(sandbox: Sandbox, jobs: list[tuple[MicroTask, str, tuple[TestCase, ...]]]) -> list[Report]:
    """Each program on its tests, under the limits of its problem; as many at a time as there are workers."""

    async def judge(task: MicroTask, code: str, tests: tuple[TestCase, ...]) -> Report:
        limits, rule = task.problem.limits, task.problem.rule
        return await sandbox.executor.judge(
            code, tests, limits=limits, rule=rule, stop_at_first_failure=False
        )

    async def main() -> list[Report]:
        return await asyncio.gather(*(judge(*job) for job in jobs))

    return sandbox.loop.run_until_complete(main())


def expected_failure(task: MicroTask) -> Verdict:
    """Of a first guess. One mark is none to int(): "3_4_5" is read as 345, so that the output is wrong."""
    family = task.problem.metadata["family"]
    if family == "separator" and task.draft.key.startswith("_ "):
        return Verdict.WRONG_ANSWER
    return FAILURES.get(family, Verdict.WRONG_ANSWER)


def test_every_family_is_tried() -> None:
    assert {task.problem.metadata["family"] for task in TASKS} == set(FAMILIES)


def test_solutions_pass_every_test(sandbox: Sandbox) -> None:
    jobs = [
        (task, task.draft.solution, task.problem.public_tests + task.problem.private_tests) for task in TASKS
    ]
    reports = judge_all(sandbox, jobs)
    failed = [
        (task.problem.id, report) for task, report in zip(TASKS, reports, strict=True) if not report.passed
    ]
    assert failed == []


def test_first_guesses_fail_a_public_test_in_the_way_of_their_family(sandbox: Sandbox) -> None:
    jobs = [(task, guess, task.problem.public_tests) for task in TASKS for guess in task.draft.guesses]
    assert len(jobs) > 40
    found = [report.first_failure for report in judge_all(sandbox, jobs)]
    wrong = [
        (task.problem.id, guess, verdict)
        for (task, guess, _), verdict in zip(jobs, found, strict=True)
        if verdict is not expected_failure(task)
    ]
    assert wrong == []
