"""A model that thinks drafts programs that are not its answer."""

from __future__ import annotations

import pytest

from rlef_lightning.checks import check_answers
from rlef_lightning.dialogue import ChatFormat
from rlef_lightning.errors import ConfigError
from rlef_lightning.rollout import PlaySettings

from .templates import family_tokenizer

THINKING = PlaySettings(answer_after="</think>")


def test_drafts_in_thoughts_are_not_taken_for_answers() -> None:
    tokenizer = family_tokenizer("qwen3")
    chat = ChatFormat(tokenizer)
    with pytest.raises(ConfigError, match=r"answer_after is null, .*enable_thinking: false"):
        check_answers(PlaySettings(), chat)
    check_answers(THINKING, chat)
    check_answers(PlaySettings(answer_after=""), chat)
    check_answers(PlaySettings(), ChatFormat(tokenizer, template_arguments={"enable_thinking": False}))
    check_answers(PlaySettings(), ChatFormat(family_tokenizer("qwen25")))


def test_a_mark_that_no_response_shows_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"answer_after is '<\|im_start\|>'.* no response could have valid code"
    ):
        check_answers(PlaySettings(answer_after="<|im_start|>"), ChatFormat(family_tokenizer("qwen3")))
