import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.networks import (
    PolicyNetwork,
    ValueNetwork,
    hidden_states,
    load_policy,
    load_reference,
    load_value,
)


def test_positions_start_anew_in_each_sequence(folder, packed):
    model = load_policy(folder)
    with torch.no_grad():
        hidden = hidden_states(model, packed)
        first = hidden_states(model, packed.__class__(**(vars(packed) | {"position_ids": torch.arange(35)})))
    assert hidden.shape == (35, 32)
    # The second sequence shifted as a whole: rotary positions are relative, so only rounding differs.
    torch.testing.assert_close(first, hidden, rtol=1e-4, atol=1e-4)


def test_policy_network_hands_over_hidden_states_and_output_layer(folder, packed):
    model = load_policy(folder)
    hidden, weight = PolicyNetwork(model)(packed, lambda hidden, weight: (hidden, weight))
    torch.testing.assert_close(hidden, hidden_states(model, packed)[packed.response_index])
    assert weight is model.get_output_embeddings().weight


def test_value_is_read_at_the_index(folder, packed, sequences):
    network = load_value(folder, seed=3)
    values = network(packed)
    assert values.shape == (5,)
    assert values.dtype == torch.float32
    hidden = hidden_states(network.backbone, packed)[packed.value_index]
    torch.testing.assert_close(values, (hidden @ network.head.weight.T + network.head.bias)[:, 0])


def test_value_does_not_see_what_comes_later(folder, packed):
    network = load_value(folder)
    later = packed.token_ids.clone()
    later[packed.response_index + 1] = 5
    values = network(packed.__class__(**(vars(packed) | {"token_ids": later})))
    torch.testing.assert_close(values, network(packed))


def test_value_network_starts_from_the_policy(folder):
    backbone = load_value(folder).backbone.state_dict()
    for name, weight in load_policy(folder).base_model.state_dict().items():
        assert torch.equal(backbone[name], weight)


def test_head_depends_on_the_seed_alone(folder):
    one, same, other = (load_value(folder, seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not load_value(folder, seed=1).head.bias.any()
    assert one.std().item() == pytest.approx(0.1 / 32**0.5, rel=0.5)


def test_head_is_drawn_on_the_cpu_whatever_the_default_device(folder):
    network = load_value(folder, seed=1)
    with torch.device("meta"):  # as Lightning's default of a GPU: other than the generator's
        network.reset_head(2)
    assert torch.equal(network.head.weight, load_value(folder, seed=2).head.weight)


def test_first_values_are_within_the_value_clip(folder, packed):
    network = load_value(folder)
    values = []
    for seed in range(10):
        network.reset_head(seed)
        values.append(network(packed).detach())
    assert 0.02 < torch.stack(values).std().item() < 0.2


def test_reference_is_frozen(folder):
    reference = load_reference(folder)
    assert not reference.training
    assert not any(weight.requires_grad for weight in reference.parameters())


def test_dtype_is_used(folder, packed):
    assert load_policy(folder, torch.bfloat16).dtype == torch.bfloat16
    network = load_value(folder, torch.bfloat16)
    assert isinstance(network, ValueNetwork)
    assert network.head.weight.dtype == torch.bfloat16
    assert network(packed).dtype == torch.float32


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is not a model folder.*`policy\.path`"):
        load_policy(tmp_path / "nowhere", setting="policy.path")


def test_torn_config(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_value(tmp_path)


def test_unknown_architecture(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    with pytest.raises(CheckpointError, match="cannot build a model"):
        load_policy(tmp_path)


@pytest.mark.parametrize("load", [load_policy, load_value])
def test_missing_weights_are_not_made_up(folder, tmp_path, load):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"incomplete: no .*layers\.1\.mlp\.up_proj"):
        load(copy)


def test_torn_weights(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors \(setting `model\.path`\) cannot be read"):
        load_policy(copy)
