"""Folders whose ids mean different things are refused by name, before any weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.vocabularies import check_vocabularies

TINY = Path(__file__).parents[3] / "tools" / "tiny_model" / "model"


def copy(target: Path, **config: int) -> str:
    """The tiny model's folder with another config.json, and without weights."""
    shutil.copytree(TINY, target, ignore=shutil.ignore_patterns("*.safetensors"))
    read = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(read | config))
    return str(target)


def other_tokens(target: Path) -> str:
    """The same, with two tokens that changed places."""
    folder = copy(target)
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_folders_of_one_family_are_taken(tmp_path: Path) -> None:
    same = copy(tmp_path / "same", num_hidden_layers=1)
    check_vocabularies(str(TINY), None, None)
    check_vocabularies(str(TINY), same, same)
    # More rows than tokens, as large models have them: a value network reads ids and names none.
    check_vocabularies(str(TINY), None, copy(tmp_path / "padded", vocab_size=640))


def test_a_reference_over_more_ids(tmp_path: Path) -> None:
    folder = copy(tmp_path / "reference", vocab_size=640)
    with pytest.raises(CheckpointError, match=r"vocabulary of 640 ids .* one of 512") as error:
        check_vocabularies(str(TINY), folder, None)
    assert f"model.reference_folder={folder!r}" in str(error.value)
    assert f"model.model_folder={str(TINY)!r}" in str(error.value)


@pytest.mark.parametrize("network", ["reference", "value"])
def test_another_tokenizer(network: str, tmp_path: Path) -> None:
    folder = other_tokens(tmp_path / network)
    folders = (folder, None) if network == "reference" else (None, folder)
    ids = AutoTokenizer.from_pretrained(TINY).get_vocab()
    with pytest.raises(CheckpointError, match="the tokenizers differ") as error:
        check_vocabularies(str(TINY), *folders)
    assert f"model.{network}_folder={folder!r} has 512 tokens" in str(error.value)
    said = (f"'a' is {ids['b']} there and {ids['a']} here", f"'b' is {ids['a']} there and {ids['b']} here")
    assert any(words in str(error.value) for words in said)


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings(tmp_path: Path) -> None:
    folder = copy(tmp_path / "cut", vocab_size=500)
    with pytest.raises(CheckpointError, match=r"has ids up to 511 and the model embeddings for 500"):
        check_vocabularies(folder, None, None)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    folder = copy(tmp_path / "bare")
    for file in tmp_path.glob("bare/*token*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer in .*model\.value_folder"):
        check_vocabularies(str(TINY), None, folder)
