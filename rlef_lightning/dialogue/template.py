"""Chat template -> the text around its contents.

Renders a Hugging Face chat template with place-holders and takes it apart, so that contents can be
tokenised apart from the template's own text. Nothing here is tokenised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlef_lightning.dialogue.tokens import Piece
from rlef_lightning.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEFT_PAD = "\n \n"
_RIGHT_PAD = "\n\t\n"
_MARKS = {"system": "SystemPlaceHolderQZ", "user": "UserPlaceHolderQZ", "assistant": "AnswerPlaceHolderQZ"}
_LATER = "LaterPlaceHolderQZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """Which ends of a content the template strips of white space."""

    left: bool
    right: bool

    def __call__(self, content: str) -> str:
        """The content as the template would show it."""
        content = content.lstrip() if self.left else content
        return content.rstrip() if self.right else content


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """A rendered template with holes: text, content, text, content, ..., text.

    Example: Slots(texts=("<|im_start|>user\\n", "<|im_end|>\\n<|im_start|>assistant\\n"), trims=(...,))
    """

    texts: tuple[str, ...]
    trims: tuple[Trim, ...]
    """One for each hole, hence one fewer than texts."""

    def fill(self, contents: Sequence[str]) -> list[Piece]:
        """The pieces of a context with these contents."""
        pieces = [Piece(text=self.texts[0], is_content=False)]
        for trim, content, text in zip(self.trims, contents, self.texts[1:], strict=True):
            pieces.append(Piece(text=trim(content), is_content=True))
            pieces.append(Piece(text=text, is_content=False))
        return pieces


class TemplateRenderer:
    """Asks a tokenizer's chat template how it frames messages."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; "
                "use an instruction-tuned model or set tokenizer.chat_template"
            )
        self._tokenizer = tokenizer
        self._arguments = dict(arguments)

    def first(self, *, with_system: bool) -> Slots:
        """The frame of the first prompt; with one hole only where the template takes no system message."""
        if with_system and self._takes_system():
            return self._slots([("system", _MARKS["system"]), ("user", _MARKS["user"])])
        return self._slots([("user", _MARKS["user"])])

    def next(self) -> Slots:
        """The frame between one response and the next: end of turn, hole, opening of the next turn.

        Rendered without a system message, which some templates repeat in the last user message.
        """
        messages = [("user", _MARKS["user"]), ("assistant", _MARKS["assistant"]), ("user", _LATER)]
        slots = self._slots(messages)
        return Slots(texts=slots.texts[2:], trims=slots.trims[2:])

    def closing_text(self) -> str:
        """What the template writes after the last assistant message."""
        messages = [("user", _MARKS["user"]), ("assistant", _MARKS["assistant"])]
        text = self._render(messages, add_generation_prompt=False)
        return text.rpartition(_MARKS["assistant"])[2]

    def _takes_system(self) -> bool:
        try:
            text = self._render([("system", _MARKS["system"]), ("user", _MARKS["user"])])
        except ConfigError:
            return False
        return text.count(_MARKS["system"]) == 1

    def _slots(self, messages: Sequence[tuple[str, str]]) -> Slots:
        marks = [mark for _, mark in messages]
        texts = _split(self._render(messages), marks)
        padded_messages = [(role, _LEFT_PAD + mark + _RIGHT_PAD) for role, mark in messages]
        padded = _split(self._render(padded_messages), marks)
        return Slots(texts=texts, trims=_find_trims(texts, padded))

    def _render(self, messages: Sequence[tuple[str, str]], *, add_generation_prompt: bool = True) -> str:
        conversation = [{"role": role, "content": content} for role, content in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    conversation,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self._arguments,
                )
            )
        except Exception as error:
            roles = ", ".join(role for role, _ in messages)
            raise ConfigError(f"the chat template does not take messages of {roles}: {error}") from error


def _split(rendered: str, marks: Sequence[str]) -> tuple[str, ...]:
    """The texts around the marks, each of which must stand there once and in order."""
    texts: list[str] = []
    for mark in marks:
        before, found, rendered = rendered.partition(mark)
        if not found or mark in rendered:
            times = rendered.count(mark) + bool(found)
            raise ConfigError(
                f"the chat template shows a message {times} times or out of order; expected once, in order"
            )
        texts.append(before)
    return (*texts, rendered)


def _find_trims(texts: Sequence[str], padded: Sequence[str]) -> tuple[Trim, ...]:
    """Compare a rendering with one whose contents had white space around them."""
    last = len(texts) - 1
    kept_right = [False] * len(texts)
    kept_left = [False] * len(texts)
    for i, (text, seen) in enumerate(zip(texts, padded, strict=True)):
        kept_right[i] = i > 0 and seen.startswith(_RIGHT_PAD + text)
        kept_left[i] = i < last and seen.endswith(text + _LEFT_PAD)
    return tuple(Trim(left=not kept_left[i], right=not kept_right[i + 1]) for i in range(last))
