"""FSDP2 on one process: the same code path as on many, with sharded weights as DTensors."""

import pytest
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from rlef_lightning.models.networks import PolicyNetwork, load_policy, load_value
from rlef_lightning.models.weights import engine_weights


@pytest.fixture
def group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def shard(network, backbone, mesh):
    for layer in backbone.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(network, mesh=mesh)


def score(network, packed):
    return network(packed, lambda hidden, weight: torch.log_softmax(hidden @ weight.T, -1)[:, [7]])


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def test_policy_network_trains_sharded(folder, packed, group):
    plain = PolicyNetwork(load_policy(folder))
    model = load_policy(folder)
    sharded = shard(PolicyNetwork(model), model.base_model, group)
    wanted, found = score(plain, packed), score(sharded, packed)
    torch.testing.assert_close(found, wanted)
    wanted.sum().backward()
    found.sum().backward()
    others = dict(sharded.named_parameters())
    for name, weight in plain.named_parameters():
        assert isinstance(others[name], DTensor)
        torch.testing.assert_close(whole(others[name].grad), weight.grad)


def test_value_network_is_the_same_sharded(folder, packed, group):
    plain, network = load_value(folder), load_value(folder)
    torch.testing.assert_close(shard(network, network.backbone, group)(packed), plain(packed))


def test_engine_weights_are_whole(folder, packed, group):
    plain = dict(engine_weights(load_policy(folder)))
    model = load_policy(folder)
    shard(PolicyNetwork(model), model.base_model, group)
    found = dict(engine_weights(model))
    assert set(found) == set(plain)
    for name, weight in found.items():
        assert not isinstance(weight, DTensor)
        assert torch.equal(weight, plain[name])
