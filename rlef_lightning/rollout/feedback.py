"""Problem + Report -> what the model is told: the truth, or, in ablations, somebody else's or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

from rlef_lightning.dialogue import Prompts, render_feedback
from rlef_lightning.errors import ConfigError
from rlef_lightning.types import Episode, Problem, Report


class FeedbackSource(Protocol):
    """Chooses the next message after a response that did not pass the public tests."""

    def __call__(self, problem: Problem, report: Report | None, seed: int) -> str:
        """The message's text."""
        ...


class OwnFeedback:
    """The feedback of the program itself on the problem's public tests (RLEF, sec. 2.1)."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts

    def __call__(self, problem: Problem, report: Report | None, seed: int) -> str:
        """Render the report."""
        return render_feedback(self._prompts, problem.public_tests, report)


class NoFeedback:
    """The request for another try, and nothing about the one before (RLEF, sec. 3)."""

    def __init__(self, prompts: Prompts) -> None:
        self._text = prompts.render("no_feedback")

    def __call__(self, problem: Problem, report: Report | None, seed: int) -> str:
        """Always the same text, also where the response held no code."""
        return self._text


class RandomFeedback:
    """Feedback of a wrong program of another problem on that problem's public tests (RLEF, sec. 3).

    Args:
        donors: Episodes that were sampled without feedback; the failed ones give the texts.
        problems: The donors' problems by id.
        prompts: The wording.

    Raises:
        ConfigError: fewer than two problems have a failed episode, so that "another" has no meaning.
    """

    def __init__(self, donors: Sequence[Episode], problems: dict[str, Problem], prompts: Prompts) -> None:
        self._texts: list[tuple[str, str]] = []
        for episode in donors:
            turn = episode.turns[0]
            if turn.public_report is not None and not turn.passed_public:
                tests = problems[episode.problem_id].public_tests
                self._texts.append((episode.problem_id, render_feedback(prompts, tests, turn.public_report)))
        owners = {problem_id for problem_id, _ in self._texts}
        if len(owners) < 2:
            raise ConfigError(
                f"random feedback needs wrong programs of at least 2 problems, found {len(owners)}: "
                "evaluate on more problems"
            )

    def __call__(self, problem: Problem, report: Report | None, seed: int) -> str:
        """A text of another problem, chosen by the seed."""
        rng = Random(seed)
        while True:
            owner, text = rng.choice(self._texts)
            if owner != problem.id:
                return text
