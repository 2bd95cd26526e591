import json

import pytest
import torch
from safetensors.torch import load_file

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.networks import hidden_states, load_policy
from rlef_lightning.models.weights import engine_weights, export_folder


class Tokenizer:
    def save_pretrained(self, save_directory):
        with open(f"{save_directory}/tokenizer.json", "w") as file:
            file.write("{}")


class FullDisk:
    def save_pretrained(self, save_directory):
        raise OSError("no space left")


def test_names_are_those_of_the_checkpoint(folder):
    model = load_policy(folder)
    weights = dict(engine_weights(model))
    stored = load_file(folder / "model.safetensors")
    assert set(weights) == set(stored) | {"lm_head.weight"}
    for name, weight in stored.items():
        assert torch.equal(weights[name], weight)
    assert not any(weight.requires_grad for weight in weights.values())


def test_tied_output_layer_is_named(folder):
    model = load_policy(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1.0)
    weights = dict(engine_weights(model))
    assert torch.equal(weights["lm_head.weight"], model.get_output_embeddings().weight)
    tied = torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert tied is model.config.tie_word_embeddings


def test_each_name_comes_once(folder):
    names = [name for name, _ in engine_weights(load_policy(folder))]
    assert len(names) == len(set(names))


def test_export_and_load_again(folder, packed, tmp_path):
    model = load_policy(folder)
    path = export_folder(model, Tokenizer(), tmp_path / "exports" / "best")
    again = load_policy(path)
    torch.testing.assert_close(hidden_states(again, packed), hidden_states(model, packed))
    assert again.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert [p.name for p in path.parent.iterdir()] == ["best"]
    assert (path / "tokenizer.json").is_file()


def test_export_keeps_the_config(folder, tmp_path):
    path = export_folder(load_policy(folder), Tokenizer(), tmp_path / "best")
    before, after = (json.loads((where / "config.json").read_text()) for where in (folder, path))
    assert after == before


def test_export_replaces_a_folder(folder, tmp_path):
    path = tmp_path / "best"
    model = load_policy(folder)
    export_folder(model, Tokenizer(), path)
    (path / "left-over").touch()
    export_folder(model, Tokenizer(), path)
    assert not (path / "left-over").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_failed_export_leaves_the_old_one(folder, tmp_path):
    path = tmp_path / "best"
    model = load_policy(folder)
    export_folder(model, Tokenizer(), path)
    with pytest.raises(CheckpointError, match=r"cannot write the model to .*best: no space left"):
        export_folder(model, FullDisk(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    load_policy(path)


def test_gathered_weights_override_the_models(folder, tmp_path):
    model = load_policy(folder)
    gathered = {name: torch.zeros_like(weight) for name, weight in engine_weights(model)}
    again = load_policy(export_folder(model, Tokenizer(), tmp_path / "best", gathered))
    assert not any(weight.any() for weight in again.parameters())
