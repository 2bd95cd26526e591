"""Problems -> those whose first prompt leaves room for a response. Plays nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rlef_lightning.dialogue import ChatFormat, Prompts, render_first_message
from rlef_lightning.errors import DataError
from rlef_lightning.types import Problem


def fitting(
    problems: Sequence[Problem], split: str, chat: ChatFormat, prompts: Prompts, room: int, *, skip: bool
) -> Sequence[Problem]:
    """Problems whose first prompt has at most `room` tokens; how many there are besides is logged.

    Raises:
        DataError: one has more and `skip` is False, or none is left.
    """
    kept = []
    for problem in problems:
        length = len(chat.first_prompt(render_first_message(prompts, problem.statement)))
        if length <= room:
            kept.append(problem)
        elif not skip:
            raise DataError(
                f"the first prompt of {split} problem {problem.id!r} has {length} tokens, the context "
                f"leaves {room}: raise data.engine.init_args.max_context_tokens, lower "
                "max_response_tokens, or set data.long_prompts to 'skip'"
            )
    if not kept:
        raise DataError(f"no {split} problem is left of {len(problems)}: all prompts exceed {room} tokens")
    if len(kept) < len(problems):
        logging.getLogger(__name__).warning(
            "%d of %d %s problems are left out: their first prompts have more than the %d tokens that the "
            "context leaves (data.long_prompts is 'skip')",
            len(problems) - len(kept), len(problems), split, room,
        )  # fmt: skip
    return kept
