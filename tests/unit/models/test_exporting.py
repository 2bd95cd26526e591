"""From a checkpoint, in one file or in shards, to a folder that transformers loads, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlef_lightning.cli import main
from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.exporting import export
from rlef_lightning.models.networks import load_policy

TINY = str(Path(__file__).parents[3] / "tools" / "tiny_model" / "model")


@pytest.fixture(scope="module")
def trained():
    """Weights that differ from those of the folder."""
    model = load_policy(TINY)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.01)
    return model


def state_of(model):
    weights = {f"policy.model.{name}": weight for name, weight in model.state_dict().items()}
    return {**weights, "value.head.bias": torch.zeros(1)}


def written(trained, path: Path, kind: str) -> Path:
    if kind == "file":
        torch.save({"state_dict": state_of(trained), "epoch": 3}, path)
    else:
        dcp.save({"state_dict": state_of(trained)}, checkpoint_id=str(path), no_dist=True)
    return path


@pytest.mark.parametrize("kind", ["file", "shards"])
def test_weights_arrive_to_the_bit(trained, tmp_path, kind):
    checkpoint = written(trained, tmp_path / "last.ckpt", kind)
    folder = export(checkpoint, TINY, tmp_path / "exported", torch.float32)
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    wanted = trained.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (
        AutoTokenizer.from_pretrained(folder).chat_template
        == AutoTokenizer.from_pretrained(TINY).chat_template
    )


def test_the_command(trained, tmp_path, capsys):
    checkpoint = written(trained, tmp_path / "last.ckpt", "file")
    line = [
        "export",
        str(checkpoint),
        "--model_folder",
        TINY,
        "--to",
        str(tmp_path / "new"),
        "--dtype",
        "bfloat16",
    ]
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code == 0
    assert "written to" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype="auto")
    assert model.dtype == torch.bfloat16


def test_what_is_no_checkpoint_is_named(trained, tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        export(tmp_path / "nothing.ckpt", TINY, tmp_path / "new", torch.float32)
    (tmp_path / "torn.ckpt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"torn\.ckpt cannot be read"):
        export(tmp_path / "torn.ckpt", TINY, tmp_path / "new", torch.float32)
    (tmp_path / "empty.ckpt").mkdir()
    with pytest.raises(CheckpointError, match=r"empty\.ckpt cannot be read"):
        export(tmp_path / "empty.ckpt", TINY, tmp_path / "new", torch.float32)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "said"), [("file", "is of another model than --model_folder"), ("shards", "Size mismatch")]
)
def test_another_model_is_refused(folder, tmp_path, kind, said):
    checkpoint = written(load_policy(folder), tmp_path / "other.ckpt", kind)
    with pytest.raises(CheckpointError, match=said):
        export(checkpoint, TINY, tmp_path / "new", torch.float32)
    assert not (tmp_path / "new").exists()


def test_only_what_lora_left_is_read_from_the_model_folder(trained, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(TINY, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    checkpoint = written(trained, tmp_path / "last.ckpt", "file")
    folder = export(checkpoint, str(bare), tmp_path / "exported", torch.float32)
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in trained.state_dict().items())
