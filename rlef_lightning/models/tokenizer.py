"""Model folder -> its tokenizer, which must know a chat template. Says nothing and renders nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlef_lightning.errors import CheckpointError


def load_tokenizer(model_folder: str) -> Any:
    """The tokenizer in a Hugging Face folder; local files only.

    Raises:
        CheckpointError: there is none, or it has no chat template.
    """
    tokenizer = read_tokenizer(model_folder, "model.model_folder")
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"the tokenizer in {model_folder!r} has no chat template: RLEF is a dialogue; use the "
            "instruct version of the model or add chat_template.jinja to the folder"
        )
    return tokenizer


def end_token_ids(model_folder: str) -> tuple[int, ...]:
    """Ids that end a response by the folder's generation_config.json; none where it has no such file.

    vLLM heeds that file whatever it is told, so the dialogue must know them, too.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = Path(model_folder) / "generation_config.json"
    if not path.is_file():
        return ()
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return tuple(found) if isinstance(found, list) else () if found is None else (int(found),)


def read_tokenizer(folder: str, setting: str) -> Any:
    """The same, with or without a chat template; `setting` names the option that the folder comes from."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no tokenizer in {folder!r} ({setting}): {error}") from error
