"""Model folder -> its tokenizer, and the contexts of dialogues under its chat template. Plays nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlef_lightning.dialogue import ChatFormat
from rlef_lightning.models.tokenizer import end_token_ids, load_tokenizer


def read_chat(
    model_folder: str, system_prompt: str | None, template_arguments: Mapping[str, Any] | None
) -> tuple[Any, ChatFormat]:
    """The tokenizer and its chat; see `ChatFormat`.

    Raises:
        CheckpointError: the folder has no tokenizer or no chat template, or a file that cannot be read.
        ConfigError: the template cannot hold a dialogue.
    """
    tokenizer = load_tokenizer(model_folder)
    chat = ChatFormat(
        tokenizer,
        system_prompt=system_prompt,
        template_arguments=template_arguments,
        end_token_ids=end_token_ids(model_folder),
    )
    return tokenizer, chat
