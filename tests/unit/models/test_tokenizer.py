"""What a model folder says about the end of a response."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.tokenizer import end_token_ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ('{"eos_token_id": [128001, 128008, 128009]}', (128001, 128008, 128009)),
        ('{"eos_token_id": 2}', (2,)),
        ('{"eos_token_id": null}', ()),
        ("{}", ()),
        (None, ()),
    ],
)
def test_ends_are_those_of_generation_config(text: str | None, ids: tuple[int, ...], tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "generation_config.json").write_text(text)
    assert end_token_ids(str(tmp_path)) == ids


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be read"):
        end_token_ids(str(tmp_path))
