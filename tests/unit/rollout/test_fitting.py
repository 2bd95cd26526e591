"""Problems whose first prompt is too long: an error, or left out, and said."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from rlef_lightning.dialogue import Prompts, render_first_message
from rlef_lightning.errors import DataError
from rlef_lightning.rollout.fitting import fitting
from rlef_lightning.types import Problem

from .doubles import chat_format, problem

SHORT = [problem("a"), problem("b")]
LONG = [replace(problem(name), statement="x y z " * 50) for name in ("c", "d", "e")]


def length(one: Problem) -> int:
    return len(chat_format().first_prompt(render_first_message(Prompts(), one.statement)))


ROOM = max(map(length, SHORT))


def kept(problems: list[Problem], room: int = ROOM, *, skip: bool = True) -> list[str]:
    found = fitting(problems, "validation", chat_format(), Prompts(), room, skip=skip)
    return [one.id for one in found]


def test_the_log_says_how_many_of_which_split_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert kept([LONG[0], SHORT[0], LONG[1], SHORT[1], LONG[2]]) == ["a", "b"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "3 of 5 validation problems are left out: their first prompts have more than the "
        f"{ROOM} tokens that the context leaves (data.long_prompts is 'skip')"
    )


def test_nothing_is_said_where_all_fit(caplog: pytest.LogCaptureFixture) -> None:
    assert kept(SHORT) == ["a", "b"]
    assert not caplog.records


def test_a_problem_that_does_not_fit_is_an_error_unless_skipped() -> None:
    with pytest.raises(
        DataError, match=rf"validation problem 'c' has {length(LONG[0])} tokens.* leaves {ROOM}"
    ):
        kept([*SHORT, *LONG], skip=False)
    with pytest.raises(DataError, match="no validation problem is left of 3"):
        kept(LONG)
