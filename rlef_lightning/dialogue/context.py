"""Messages + sampled ids -> the next prompt's ids, for any Hugging Face chat template.

Token-in, token-out: the next prompt is the previous prompt's ids, the completion's ids as they were
sampled, and the ids of what the environment says next. Sampled text is never tokenised again, and
earlier turns are never rendered again, so a template cannot rewrite them. This file samples nothing
and does not know the context limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rlef_lightning.dialogue.template import TemplateRenderer
from rlef_lightning.dialogue.tokens import InertTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THOUGHT_END = "</think>"
"""With which the thoughts of Qwen 3, DeepSeek R1 and their kin end."""


class ChatFormat:
    """The token contexts of a dialogue (RLEF, sec. 2.1) under one tokenizer and its chat template.

    Contents (statements, feedback, program output) are inert: "<|eot_id|>" inside them is text. The
    template is rendered once, here, with place-holders, so a date that it prints is that of the
    start of the run. Contents are trimmed where the template trims them. A template that refuses or
    ignores the system role gets the system prompt at the head of the first user message.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system_prompt: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        end_token_ids: Sequence[int] = (),
    ) -> None:
        """Take the template apart.

        Args:
            tokenizer: With a chat template.
            system_prompt: Said before the first message; None: nothing.
            template_arguments: For the template, as {"enable_thinking": False} for Qwen 3.
            end_token_ids: Further ids that end a response (generation_config.json).
        """
        self._end_token_ids = tuple(end_token_ids)
        self._tokenizer = tokenizer
        renderer = TemplateRenderer(tokenizer, template_arguments or {})
        self._system_prompt = system_prompt
        self._first = renderer.first(with_system=system_prompt is not None)
        self._next = renderer.next()
        self._inert = InertTokenizer(tokenizer, str(tokenizer.chat_template))
        self._end_id = self._find_end(renderer.closing_text())

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The ids that end a response: the template's end of turn, the end of sequence, and those given."""
        ids = (self._end_id, self._tokenizer.eos_token_id, *self._end_token_ids)
        return tuple(dict.fromkeys(token for token in ids if token is not None))

    @property
    def frames(self) -> dict[str, Any]:
        """What the template makes of nothing: all that decides a context besides its contents.

        The template's source does not tell: it may print the date, and its arguments steer it.
        """
        ids = {"first": self.first_prompt(""), "next": self.continue_prompt((), (), "")}
        return {**ids, "stop": self.stop_token_ids, "trims": repr((self._first.trims, self._next.trims))}

    @property
    def thinks(self) -> bool:
        """True where the template knows thoughts and leaves it to the model to end them."""
        return THOUGHT_END in str(self._tokenizer.chat_template) and THOUGHT_END not in self._first.texts[-1]

    def first_prompt(self, user_text: str) -> tuple[int, ...]:
        """The ids before the first response, the opening of the assistant's turn included."""
        contents = [user_text]
        if self._system_prompt is not None:
            takes_system = len(self._first.trims) == 2
            contents = [self._system_prompt, user_text] if takes_system else [self._joined(user_text)]
        return self._inert.encode(self._first.fill(contents))

    def continue_prompt(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], user_text: str
    ) -> tuple[int, ...]:
        """The ids before the next response; they begin with `prompt_ids` and `completion_ids` unchanged.

        A completion that was cut lacks its end of turn, which is then added.
        """
        ended = bool(completion_ids) and completion_ids[-1] in self.stop_token_ids
        bridge = self._inert.encode(self._next.fill([user_text]))
        if ended and self._end_id is not None:
            bridge = bridge[bridge.index(self._end_id) + 1 :]
        return (*prompt_ids, *completion_ids, *bridge)

    def decode(self, completion_ids: Sequence[int]) -> str:
        """A completion's text, without special tokens and the end of turn."""
        stops = self.stop_token_ids
        kept = [token for token in completion_ids if token not in stops]
        text = self._tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def shows(self, mark: str) -> bool:
        """True where a mark that the model writes is in the text of its response."""
        return mark in self.decode(self._tokenizer(mark, add_special_tokens=False)["input_ids"])

    def _joined(self, user_text: str) -> str:
        return f"{self._system_prompt}\n\n{user_text}"

    def _find_end(self, closing_text: str) -> int | None:
        """The control token with which the template closes the assistant's last and earlier turns alike."""
        end = self._inert.first_control_id(closing_text)
        return end if end == self._inert.first_control_id(self._next.texts[0]) else None
