"""From a folder to sharded networks: the same weights on any number of ranks, none of which has all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models import reading
from rlef_lightning.models.building import Place, build_policy, build_reference, build_value
from rlef_lightning.models.networks import hidden_states, load_policy, load_value
from rlef_lightning.models.skeleton import skeleton
from tests.two_ranks import on_two_ranks

ALONE = Place()


def test_weights_and_buffers_are_those_of_transformers(folder):
    ours = build_policy(folder, ALONE).model
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert dict(ours.named_buffers()).keys() == dict(theirs.named_buffers()).keys()
    for find in ("named_parameters", "named_buffers"):
        others = dict(getattr(theirs, find)())
        for name, tensor in getattr(ours, find)():
            assert torch.equal(tensor, others[name]), name
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()


def test_tied_weights_are_one_tensor(folder):
    model = build_policy(folder, ALONE).model
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied is model.config.tie_word_embeddings


def test_a_skeleton_takes_no_memory(folder):
    model = skeleton(AutoModelForCausalLM, folder, torch.float32, "model.model_folder")
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


def split(folder: Path, target: Path) -> None:
    """The same weights in two files with an index."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: weights[name].contiguous() for name in part}, target / file)
    index = {name: file for file, part in parts.items() for name in part}
    (target / reading.INDEX).write_text(json.dumps({"weight_map": index}))


def test_several_files_with_an_index(folder, tmp_path):
    split(folder, tmp_path / "split")
    found = build_policy(tmp_path / "split", ALONE).state_dict()
    for name, tensor in build_policy(folder, ALONE).state_dict().items():
        assert torch.equal(tensor, found[name])


def test_a_file_of_the_index_is_missing(folder, tmp_path):
    split(folder, tmp_path / "split")
    (tmp_path / "split" / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"incomplete: no file b\.safetensors"):
        build_policy(tmp_path / "split", ALONE)


def test_weights_of_another_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"vocab_size": 64}))
    with pytest.raises(CheckpointError, match=r"is \(61, 32\), the model's \(64, 32\)"):
        build_policy(tmp_path / "other", ALONE)


def sharded(rank, folder, packed):
    """On each of two ranks: as on one process, shard by shard."""
    place = Place(mesh=init_device_mesh("cpu", (2,)))
    largest = 0
    rows = reading.Folder.rows

    def watched(self, name, part):
        nonlocal largest
        tensor = rows(self, name, part)
        largest = max(largest, tensor.numel() / torch.Size(self.shape(name)).numel())
        return tensor

    reading.Folder.rows = watched
    policy = build_policy(folder, place)
    reference = build_reference(folder, place, torch.bfloat16)
    value = build_value(folder, place, seed=3)
    # 61 rows of a vocabulary make 31 and 30; small tensors of 32 elements make 16 and 16.
    assert largest <= 31 / 61
    plain = {"policy": load_policy(folder), "value": load_value(folder, seed=3)}
    for network, other in ((policy.model, plain["policy"]), (value, plain["value"])):
        others = dict(other.named_parameters())
        for name, weight in network.named_parameters():
            assert isinstance(weight, DTensor)
            assert torch.equal(weight.full_tensor(), others[name]), name
    held = sum(weight.to_local().numel() for weight in policy.parameters())
    total = sum(weight.numel() for weight in plain["policy"].parameters())
    assert abs(held / total - 0.5) < 0.02
    assert {weight.dtype for weight in reference.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in reference.parameters())
    with torch.no_grad():
        torch.testing.assert_close(value(packed), plain["value"](packed))


@pytest.mark.slow
def test_two_ranks_hold_half_each_of_the_same_weights(folder, packed):
    on_two_ranks(sharded, folder, packed)


def computed_again(rank, folder, packed):
    mesh = init_device_mesh("cpu", (2,))

    def gradients(**options):
        network = build_value(folder, Place(mesh=mesh, **options))
        network.train()
        network(packed).square().sum().backward()
        return {name: weight.grad.full_tensor() for name, weight in network.named_parameters()}

    plain = gradients()
    for again in (gradients(recompute=True), gradients(offload=True)):
        assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())
    coarse = gradients(compute=torch.bfloat16)
    assert {gradient.dtype for gradient in coarse.values()} == {torch.float32}
    length = torch.cat([gradient.flatten() for gradient in plain.values()]).norm()
    apart = torch.cat([(coarse[name] - plain[name]).flatten() for name in plain]).norm()
    assert 0 < apart < 0.05 * length


@pytest.mark.slow
def test_computing_layers_again_changes_no_gradient(folder, packed):
    on_two_ranks(computed_again, folder, packed)


def test_hidden_states_need_no_more_than_the_folder(folder, packed):
    network = build_policy(folder, Place(recompute=True))
    with torch.no_grad():
        wanted = hidden_states(load_policy(folder), packed)
        torch.testing.assert_close(hidden_states(network.model, packed), wanted)
