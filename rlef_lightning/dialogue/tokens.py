"""Template pieces and contents -> token ids, contents inert.

Control tokens (a tokenizer's special tokens and those that the chat template itself uses) are
recognised in the template's own text and nowhere else. This file knows nothing of chats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlef_lightning.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = re.compile(r"<([|｜])[^<>|｜]+\1>")
"""How model families write control tokens: "<|file_sep|>"; DeepSeek's bars are wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a rendered context.

    Example: Piece(text="<|im_start|>user\\n", is_content=False)
    """

    text: str
    is_content: bool
    """True: statement, feedback or program output, where control tokens are plain text."""


class InertTokenizer:
    """A Hugging Face fast tokenizer that can be told which text may hold control tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template_source: str) -> None:
        """Added tokens that are named in the chat template's source count as control tokens."""
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ConfigError(
                f"the tokenizer is a {type(tokenizer).__name__} without a fast backend (tokenizer.json); "
                "contexts need one to keep special tokens inert"
            )
        self._tokenizer = tokenizer
        self._control_ids = _control_ids(tokenizer, template_source)
        self._plain = _plain_backend(tokenizer, self._control_ids)
        self._frames: dict[str, list[int]] = {}

    def encode(self, pieces: Sequence[Piece]) -> tuple[int, ...]:
        """Ids of the pieces' concatenation, as the tokenizer itself gives them wherever that is safe.

        The whole text is tokenised at once, so merges across the border of template and content are
        those the model knows. If that yields control tokens other than the template's own, contents
        held some: then the stretches between the template's control tokens are tokenised as plain text.
        """
        pieces = [Piece(text=_encodable(piece.text), is_content=piece.is_content) for piece in pieces]
        ids = self._recognise("".join(piece.text for piece in pieces))[0]
        own = [i for piece in pieces if not piece.is_content for i in self._frame_controls(piece.text)]
        if self._controls(ids) == own:
            return tuple(ids)
        return tuple(self._encode_apart(pieces))

    def first_control_id(self, text: str) -> int | None:
        """The first control token in a text of the template, or None."""
        return next(iter(self._controls(self._recognise(text)[0])), None)

    def _controls(self, ids: Iterable[int]) -> list[int]:
        return [token for token in ids if token in self._control_ids]

    def _frame_controls(self, text: str) -> list[int]:
        """Control tokens of a piece of the template; there are few such pieces, and they come every turn."""
        if text not in self._frames:
            self._frames[text] = self._controls(self._recognise(text)[0])
        return self._frames[text]

    def _encode_apart(self, pieces: Sequence[Piece]) -> list[int]:
        ids: list[int] = []
        plain = ""
        for piece in pieces:
            end = 0
            for token, (start, stop) in self._template_controls(piece):
                ids += [*self._encode_plain(plain + piece.text[end:start]), token]
                plain, end = "", stop
            plain += piece.text[end:]
        return ids + self._encode_plain(plain)

    def _template_controls(self, piece: Piece) -> list[tuple[int, tuple[int, int]]]:
        """Control tokens of a template piece with their places; a content has none by definition."""
        if piece.is_content:
            return []
        ids, offsets = self._recognise(piece.text)
        return [(t, place) for t, place in zip(ids, offsets, strict=True) if t in self._control_ids]

    def _recognise(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])

    def _encode_plain(self, text: str) -> list[int]:
        """Ids of plain text. A model whose own vocabulary yields a control token is broken up around it."""
        if not text:
            return []
        encoding = self._plain.encode(text, add_special_tokens=False)
        at = next((i for i, token in enumerate(encoding.ids) if token in self._control_ids), None)
        if at is None:
            return list(encoding.ids)
        start, stop = encoding.offsets[at]
        middle = min(max((start + stop) // 2, 1), len(text) - 1)
        if len(text) == 1:
            control = self._tokenizer.convert_ids_to_tokens(encoding.ids[at])
            raise ConfigError(
                f"the tokenizer maps the character {text!r} to the control token {control!r}; "
                "use a tokenizer that keeps them apart"
            )
        return self._encode_plain(text[:middle]) + self._encode_plain(text[middle:])


def _control_ids(tokenizer: PreTrainedTokenizerBase, template_source: str) -> frozenset[int]:
    """Special tokens, the end of sequence, and added tokens that the template names or that look like marks.

    The latter two are not always flagged special ("<think>" of Qwen 3, its "<|file_sep|>"). Other added
    tokens are ordinary vocabulary (tags and runs of white space of Gemma), and so is the unknown token,
    which plain text may rightly become.
    """
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    named = {i for i, token in added.items() if token.content.strip() and token.content in template_source}
    special = {i for i, token in added.items() if token.special or _MARK.fullmatch(token.content)}
    ordinary = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    eos = {tokenizer.eos_token_id} - {None}
    return frozenset((special | named | eos) - ordinary)


def _plain_backend(tokenizer: PreTrainedTokenizerBase, control_ids: frozenset[int]) -> Any:
    """A private copy of the tokenizer to which control tokens are text; the caller's is left as it was."""
    backend = tokenizer.backend_tokenizer
    description = json.loads(backend.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["id"] in control_ids
    plain = type(backend).from_str(json.dumps(description))
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain


def _encodable(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
