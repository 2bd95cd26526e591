"""Model folder -> its tokenizer, fit for dialogues."""

from __future__ import annotations

from typing import Any

from rlef_lightning.errors import CheckpointError


def load_tokenizer(model_folder: str) -> Any:
    """A Hugging Face tokenizer with a chat template; nothing is downloaded.

    Raises:
        CheckpointError: the folder has no tokenizer or no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no tokenizer in {model_folder!r} (model.model_folder): {error}") from error
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"the tokenizer in {model_folder!r} has no chat template: RLEF is a dialogue; use the "
            "instruct version of the model or add chat_template.jinja to the folder"
        )
    return tokenizer
