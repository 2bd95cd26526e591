"""Two ranks with sharded networks score and train as one process with whole ones does."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from rlef_lightning.learning.minibatches import make_minibatches
from rlef_lightning.models.lora import Lora
from rlef_lightning.module import RLEFModule
from rlef_lightning.ranks import Ranks
from tests.small_runs import episodes, model_folder, take_step
from tests.two_ranks import on_two_ranks

pytestmark = pytest.mark.slow

PACK_TOKENS, STEPS = 40, 2


def trained(folder: str, ranks: Ranks, options: dict[str, Any]) -> tuple[RLEFModule, Any, dict[str, float]]:
    """A module after two optimizer steps, what it scored before, and what it logged."""
    module = RLEFModule(folder, learning_rate=1e-3, warmup_steps=1, pack_tokens=PACK_TOKENS, **options)
    if ranks.size > 1:
        module._device_mesh = init_device_mesh("cpu", (ranks.size, 1), mesh_dim_names=("data_parallel", "tp"))
    module.configure_model()
    scored = module.score(episodes(11), 1.0, ranks)
    optimizers = module.configure_optimizers()
    steps = make_minibatches(scored.samples, STEPS, PACK_TOKENS, 0, rank=ranks.rank, ranks=ranks.size)
    logged: dict[str, float] = {}
    for number, batch in enumerate(steps):
        take_step(module, batch, optimizers, logged, last=number == STEPS - 1)
    return module, scored, logged


def alone(folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """What one process comes to."""
    module, scored, logged = trained(folder, Ranks(), options)
    return {
        "samples": scored.samples,
        "metrics": scored.metrics,
        "logged": {name: number for name, number in logged.items() if not name.endswith("_per_s")},
        "weights": {name: weight.detach() for name, weight in module.named_parameters()},
        "engine": dict(module.engine_weights()),
    }


Case = tuple[str, dict[str, Any], dict[str, Any]]
"""A model folder, options of the module, and what one process comes to."""


def compare(rank: int, cases: list[Case]) -> None:
    for folder, options, one in cases:
        module, scored, logged = trained(folder, Ranks(60.0), options)
        for sample, expects in zip(scored.samples, one["samples"], strict=True):
            assert sample.token_ids == expects.token_ids
            assert sample.policy_logprobs == pytest.approx(expects.policy_logprobs, abs=1e-5)
            assert [span.advantage for span in sample.spans] == pytest.approx(
                [span.advantage for span in expects.spans], abs=1e-4
            )
        assert scored.metrics == pytest.approx(one["metrics"], abs=1e-5)
        timeless = {name: logged[name] for name in one["logged"]}
        assert timeless == pytest.approx(one["logged"], abs=1e-5, rel=1e-4)
        assert min(timeless[name] for name in timeless if "gradient_norm" in name) > 0.01
        for name, shard in module.named_parameters():
            assert isinstance(shard, DTensor)  # resharded after every pass
            # Adam makes steps of 1e-3 of the smallest gradients, rounding and all; the norms show their size.
            whole = shard.full_tensor()
            torch.testing.assert_close(whole, one["weights"][name], atol=5e-5, rtol=1e-5)
        _weights_for_the_engine_are_whole(module, one["engine"])
        _no_more_than_a_layer_is_whole(module, one["engine"])


def half_precision(rank: int, folder: str) -> None:
    """A base in bfloat16 beside adapters in float32, in the same groups of shards."""
    for compute in (None, "bfloat16"):
        options = {"lora": Lora(rank=4), "value_network": "shared", "reference_dtype": "bfloat16"}
        module, scored, logged = trained(folder, Ranks(60.0), {**options, "compute_dtype": compute})
        assert 0 < logged["train/gradient_norm_policy"] < 100
        assert scored.metrics["kl"] == 0.0  # policy and reference are the same pass of the same weights
        for name, weight in module.policy.named_parameters():
            assert isinstance(weight, DTensor)
            assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name


def averages_in_the_host(rank: int, folder: str) -> None:
    """The steps of AdamW; its state is saved as shards, and read into new shards."""
    module, _, _ = trained(folder, Ranks(60.0), {"offload_optimizer": True})
    optimizer = module.configure_optimizers()["optimizer"]
    plain = torch.optim.AdamW(optimizer.param_groups)
    for weight in module.parameters():
        weight.grad = weight.detach().sin()
    before = [weight.detach().clone() for weight in module.parameters()]
    plain.step()
    wanted = [weight.full_tensor() for weight in module.parameters()]
    with torch.no_grad():
        for weight, old in zip(module.parameters(), before, strict=True):
            weight.copy_(old)
    optimizer.step()
    for weight, other in zip(module.parameters(), wanted, strict=True):
        assert torch.equal(weight.full_tensor(), other)
    state = get_optimizer_state_dict(module, optimizer)
    again = module.configure_optimizers()["optimizer"]
    set_optimizer_state_dict(module, again, state)
    for weight in module.parameters():
        found, kept = again.state[weight], optimizer.state[weight]
        assert found["step"] == kept["step"] == 1
        for name in ("exp_avg", "exp_avg_sq"):
            assert isinstance(found[name], DTensor)
            assert found[name].placements == weight.placements
            assert torch.equal(found[name].to_local(), kept[name].to_local())
            assert torch.equal(found[name].full_tensor(), plain.state[weight][name].full_tensor())


def _no_more_than_a_layer_is_whole(module: RLEFModule, expected: dict[str, torch.Tensor]) -> None:
    sizes: dict[str, int] = {}
    for name, weight in expected.items():
        sizes[prefix(name)] = sizes.get(prefix(name), 0) + weight.nbytes
    largest, second = sorted(sizes.values(), reverse=True)[:2]
    assert largest < 0.4 * sum(sizes.values())
    # When a layer's last tensor is let go, the next one's first is there already.
    assert largest <= peak_bytes(module) <= largest + second


def peak_bytes(module: RLEFModule) -> int:
    """Most bytes of gathered weights at a time, for an engine that keeps a layer's until all are there."""
    live = peak = 0

    def gone(size: int) -> None:
        nonlocal live
        live -= size

    layer: dict[str, torch.Tensor] = {}
    for name, weight in module.engine_weights():
        if layer and prefix(name) != prefix(next(iter(layer))):
            layer.clear()
        size = weight.untyped_storage().nbytes()
        weakref.finalize(weight, gone, size)
        live += size
        peak = max(peak, live)
        layer[name] = weight
        del weight
    return peak


def _weights_for_the_engine_are_whole(module: RLEFModule, expected: dict[str, torch.Tensor]) -> None:
    apart = 0 if module.policy.model.config.tie_word_embeddings else 1  # the embeddings
    parts = sum(isinstance(part, FSDPModule) for part in module.policy.modules())
    assert parts == apart + 4  # 3 layers and the root
    module.sequence_logprobs([[1, 2, 3]])  # leaves the root whole, if nobody reshards it
    held = sum(weight.to_local().numel() for weight in module.policy.parameters())
    assert held < 0.6 * sum(weight.numel() for weight in module.policy.parameters())
    names = []
    for name, weight in module.engine_weights():
        assert not isinstance(weight, DTensor)
        torch.testing.assert_close(weight, expected[name], atol=5e-5, rtol=1e-5)
        names.append(name)
    assert names == list(expected)
    assert "lm_head.weight" in names  # also where it is the embedding


def test_two_ranks_train_like_one(tmp_path: Path) -> None:
    folders = {name: model_folder(tmp_path / name, tied=name == "tied") for name in ("untied", "tied")}
    wanted: list[tuple[str, dict[str, Any]]] = [
        (folders["untied"], {}),
        (folders["tied"], {}),
        (folders["tied"], {"value_network": "shared"}),
        (folders["untied"], {"lora": Lora(rank=4)}),
        (folders["tied"], {"lora": Lora(rank=4), "value_network": "shared", "recompute_activations": True}),
    ]
    on_two_ranks(compare, [(folder, options, alone(folder, options)) for folder, options in wanted])


def both(rank: int, folder: str) -> None:
    half_precision(rank, folder)
    averages_in_the_host(rank, folder)


def test_two_ranks_train_adapters_of_a_base_in_half_precision_and_keep_averages_in_the_host(
    tmp_path: Path,
) -> None:
    on_two_ranks(both, model_folder(tmp_path / "model", tied=False))


def prefix(name: str) -> str:
    """The layer of a weight: model.layers.2, or what is outside of the layers by its own name."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[1] == "layers" else name
