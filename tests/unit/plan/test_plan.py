"""Plans: sizes of known models, arithmetic by hand, and every finding for a config that deserves it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, LlamaConfig

from rlef_lightning.errors import ConfigError
from rlef_lightning.learning.objectives import GRPO
from rlef_lightning.learning.packing import collate_sequences
from rlef_lightning.learning.samples import TokenSequence
from rlef_lightning.models.attention import IMPLEMENTATION
from rlef_lightning.models.building import Place, build_policy, build_value
from rlef_lightning.models.lora import Lora, add_adapters
from rlef_lightning.models.networks import PolicyNetwork, hidden_states
from rlef_lightning.models.sharding import decoder_layers, recompute_layers, shard
from rlef_lightning.models.skeleton import skeleton
from rlef_lightning.plan.advice import findings
from rlef_lightning.plan.asked import Asked, _devices
from rlef_lightning.plan.batches import batches
from rlef_lightning.plan.command import make_plan
from rlef_lightning.plan.hardware import RESERVED_BYTES
from rlef_lightning.plan.memory import (
    cache_bytes_per_token,
    engine_weight_bytes,
    kept_besides,
    kept_by_layer,
    memory,
)
from rlef_lightning.plan.page import in_bytes, show
from rlef_lightning.plan.shapes import Shapes, fake_ranks, held, shapes
from rlef_lightning.plan.traffic import traffic
from rlef_lightning.rollout import PlaySettings
from tests.planned import ARCHITECTURES, ASKED, H100, LENGTHS, small_folder
from tests.two_ranks import on_two_ranks


def drawn(**changes: Any) -> PlaySettings:
    """The same way to play, sampled otherwise."""
    return replace(ASKED.play, sampling=replace(ASKED.play.sampling, **changes))


@pytest.fixture(scope="module")
def eight() -> Shapes:
    return shapes(ASKED.model_folder, 8)


def test_sizes_of_known_models(eight: Shapes) -> None:
    # Llama 3.1 8B: 32 layers of 4096^2 x 2 (queries, output) + 4096 x 1024 x 2 (keys, values)
    # + 4096 x 14336 x 3 (MLP) + 4096 x 2 (norms), two tables of 128256 x 4096, a last norm.
    layer = 4096 * (2 * 4096 + 2 * 1024 + 3 * 14336 + 2)
    table = 128256 * 4096
    assert eight.policy.layer == layer == 218_112_000
    assert eight.policy.weights == 32 * layer + 2 * table + 4096 == 8_030_261_248
    assert eight.policy.embeddings == table
    assert eight.policy.root == table + 4096
    assert eight.value.weights == 32 * layer + table + 4096 + 4096 + 1
    # Every row count is divisible by 8 but the value head's single row and its bias, which rank 0 has.
    assert eight.policy.shard == 8_030_261_248 // 8
    assert eight.value.shard == (32 * layer + table + 4096) // 8 + 4096 + 1


@pytest.mark.parametrize("ranks", [64, 2304])
def test_seventy_billion_weights(ranks: int) -> None:
    found = shapes(str(ARCHITECTURES / "llama-3.1-70b"), ranks)
    assert found.policy.weights == 70_553_706_496
    if ranks == 64:  # it divides all numbers of rows
        assert found.policy.shard == 70_553_706_496 // 64
    else:  # rank 0 has the rounded up rows: 8192 / 2304 -> 4, 1024 -> 1, 28672 -> 13, 128256 -> 56
        layer = 8192 * (4 + 1 + 1 + 4 + 13 + 13) + 4 * 28672 + 2 * 4
        assert found.policy.shard == 80 * layer + 2 * 56 * 8192 + 4


@pytest.mark.parametrize("ranks", [2, 5])
def test_layers_that_are_alike_count_as_if_each_were_sharded(tmp_path: Path, ranks: int) -> None:
    folder = small_folder(tmp_path, layers=3)
    adapters = Lora(rank=3)
    found = shapes(folder, ranks, lora=adapters)
    model = skeleton(AutoModelForCausalLM, folder, torch.float32, "model.model_folder")
    add_adapters(model, decoder_layers(model), adapters)
    network = PolicyNetwork(model)
    assert len(decoder_layers(model)) == 3
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    assert found.policy.trained_weights == sum(weight.numel() for weight in trained)
    with fake_ranks(ranks) as mesh:
        shard(network, model, mesh)
        assert found.policy.shard == held(network) < found.policy.weights
        assert found.policy.trained == held(network, counts=lambda weight: weight.requires_grad)
        assert 0 < found.policy.trained < found.policy.trained_weights


def held_by_a_rank(rank: int, folder: str, planned: dict[str, int], weights: dict[str, int]) -> None:
    place = Place(mesh=init_device_mesh("cpu", (2,)))
    networks = {"policy": build_policy(folder, place), "value": build_value(folder, place)}
    for name, network in networks.items():
        local = [weight.to_local() for weight in network.parameters()]
        own = torch.tensor([sum(part.nbytes for part in local)])
        if rank == 0:  # it has the larger parts where rows are odd
            assert own.item() == 4 * planned[name]
        torch.distributed.all_reduce(own)
        assert own.item() == 4 * weights[name]


@pytest.mark.slow
def test_planned_shards_are_those_of_real_ranks(tmp_path: Path) -> None:
    folder = small_folder(tmp_path, layers=3)
    found = shapes(folder, 2)
    planned = {"policy": found.policy.shard, "value": found.value.shard}
    weights = {"policy": found.policy.weights, "value": found.value.weights}
    on_two_ranks(held_by_a_rank, folder, planned, weights)


def test_memory_item_by_item(eight: Shapes) -> None:
    held = memory(ASKED, eight, H100)
    trained = eight.policy.shard + eight.value.shard
    assert held.updating["weights (policy, value)"] == 4 * trained
    assert held.updating["Adam's averages"] == 8 * trained
    assert held.updating["gradients"] == 4 * trained
    assert held.updating["reference"] == 2 * eight.policy.shard
    assert held.updating["reserved"] == RESERVED_BYTES
    # bfloat16: the root (output layer, norm), a layer, and the embeddings, which are larger than a layer
    table, layer = 128256 * 4096, 218_112_000
    assert held.updating["gathered weights"] == 2 * (table + 4096 + layer + table)
    # 2^27 logits at a time are 1046 rows; in float32 and bfloat16, so is the output layer's gradient
    assert held.updating["logits of a chunk"] == (4 + 2) * 1046 * 128256
    assert held.updating["gradient of the output layer"] == (4 + 2) * table
    assert held.scoring["logits of a chunk"] == (4 + 4 + 2) * 1046 * 128256
    # Policy and reference keep their output layers from pack to pack, the value network norm, head and bias.
    roots = (table + 4096) + (table + 4096) + (4096 + 4096 + 1)
    assert held.scoring["gathered weights"] == 2 * (roots + layer + table)
    # A layer keeps of a token: of 2 norms 4096 numbers in float32 and one more, and 2 x 4096; of attention
    # (3 x 32 + 2 x 8) x 128 and 32 in float32; of the MLP 4 x 14336.
    kept = 2 * (4 * 4097 + 2 * 2 * 4096) + 2 * (112 * 128 + 4 * 14336) + 4 * 32
    assert held.scoring["activations"] == 8192 * kept
    # All 32 layers' inputs, an id, cosines and sines of 128, the last norm: 4096 twice, and the deviation.
    assert held.updating["activations"] == 8192 * (2 * 32 * 4096 + kept + 8 + 2 * 2 * 128 + 6 * 4096 + 4)
    # an engine for each rank: all weights in bfloat16, together with its cache half of 80 GB
    assert held.sampling["engine's weights"] == 2 * 8_030_261_248
    engine = held.sampling["engine's weights"] + held.sampling["engine's cache and work space"]
    assert engine == pytest.approx(40e9)
    assert "gradients" not in held.sampling
    # The proof after a sync: the policy's pass over 4 x 48 tokens, when the engine has its cache.
    assert held.sampling["gathered weights"] == held.updating["gathered weights"]
    assert held.sampling["logits of a chunk"] == (4 + 2) * 192 * 128256


def saved_bytes(folder: str, lengths: list[int], dtype: torch.dtype, *, recompute: bool) -> int:
    """Of all tensors but weights that a pass over a pack keeps for its backward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=IMPLEMENTATION)
    if recompute:
        recompute_layers(model)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pack = collate_sequences([TokenSequence(token_ids=(3,) * n, spans=((1, n),)) for n in lengths])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = hidden_states(model, pack)
    assert hidden.requires_grad  # and with it all that was kept is still there, each at its own address
    return sum(kept.values())


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2), (torch.float32, 4)])
def test_planned_activations_are_those_that_are_kept(tmp_path: Path, dtype: torch.dtype, size: int) -> None:
    folder = small_folder(tmp_path, layers=3)
    sizes, tokens = shapes(folder, 2), 64
    layer, besides = kept_by_layer(sizes, size), kept_besides(sizes, size)
    assert saved_bytes(folder, [33, 31], dtype, recompute=False) == tokens * (3 * layer + besides)
    # The inputs of three layers. Cosines and sines, 6 numbers each, are kept beside, where no hook sees them.
    found = saved_bytes(folder, [33, 31], dtype, recompute=True)
    assert found == tokens * (3 * size * 24 + besides - 2 * size * 6)
    asked = replace(ASKED, pack_tokens=tokens, compute_dtype="bfloat16" if size == 2 else None)
    planned = memory(asked, sizes, H100).updating["activations"]
    assert planned == found + tokens * (2 * size * 6 + layer)


def test_without_a_value_network_the_policy_alone_is_trained(eight: Shapes) -> None:
    alone = shapes(ASKED.model_folder, 8, values=None)
    assert alone.policy == eight.policy
    held = memory(replace(ASKED, objective=GRPO()), alone, H100)
    assert held.updating["Adam's averages"] == 8 * alone.policy.shard


def test_a_value_head_on_the_trunk_costs_a_row(eight: Shapes) -> None:
    shared = shapes(ASKED.model_folder, 8, values="shared")
    # A row of 4096 and a bias, which rank 0 has.
    assert shared.policy.weights == eight.policy.weights + 4096 + 1
    assert shared.policy.shard == eight.policy.shard + 4096 + 1
    assert shared.value.weights == 0
    held = memory(replace(ASKED, value_network="shared"), shared, H100)
    assert held.updating["Adam's averages"] == 8 * shared.policy.shard


def test_networks_of_other_folders_have_their_own_sizes(tmp_path: Path) -> None:
    folders = {}
    for name, layers in (("policy", 4), ("reference", 3), ("value", 2)):
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4,
        ).save_pretrained(tmp_path / name)  # fmt: skip
        folders[name] = str(tmp_path / name)
    found = shapes(folders["policy"], 2, reference_folder=folders["reference"], value_folder=folders["value"])
    layer, table = 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32, 64 * 32
    assert found.policy.weights == 4 * layer + 2 * table + 32
    assert found.reference.weights == 3 * layer + 2 * table + 32
    assert found.value.weights == 2 * layer + table + 32 + 32 + 1
    asked = replace(ASKED, devices=2, reference_folder=folders["reference"])
    assert memory(asked, found, H100).scoring["reference"] == 2 * found.reference.shard


def test_adapters_train_a_little_and_need_no_reference(eight: Shapes) -> None:
    lora = Lora(rank=16, target_modules=("q_proj", "v_proj"))
    found = shapes(ASKED.model_folder, 8, values="shared", lora=lora)
    # Of each of 32 layers: queries 16 x 4096 + 4096 x 16, values 16 x 4096 + 1024 x 16; and the value head.
    adapters = 16 * (4096 + 4096 + 4096 + 1024)
    assert found.policy.trained_weights == 32 * adapters + 4096 + 1
    assert found.policy.trained == 32 * adapters // 8 + 4096 + 1
    assert found.policy.engine_weights == eight.policy.weights + 4096 + 1
    asked = replace(ASKED, lora=lora, value_network="shared")
    held = memory(asked, found, H100)
    assert "reference" not in held.updating
    assert held.updating["Adam's averages"] == 8 * found.policy.trained
    assert held.updating["gradients"] == 4 * found.policy.trained
    # The base in bfloat16, the rest in float32.
    assert held.updating["weights (policy, value)"] == 2 * eight.policy.shard + 4 * found.policy.trained
    assert held.updating["gradient of the output layer"] == 0
    plan = batches(asked, LENGTHS)
    moved = traffic(asked, found, plan, LENGTHS)
    assert moved.reduce_per_step == 11 * 4 * found.policy.trained * 7
    assert moved.sync_per_epoch == pytest.approx(2 * found.policy.weights * 7 / 8)
    assert memory(asked, found, H100).total("updating") < 0.6 * memory(ASKED, eight, H100).total("updating")


def test_what_is_offloaded_lies_in_the_host(eight: Shapes) -> None:
    plain = memory(ASKED, eight, H100)
    moved = memory(replace(ASKED, offload_reference=True), eight, H100)
    assert moved.host["reference"] == 2 * eight.policy.shard
    assert plain.total("updating") - moved.total("updating") == moved.host["reference"]


@pytest.mark.parametrize(
    ("changes", "bytes_a_weight"),
    [
        ({}, 12),  # itself and two averages, in float32
        ({"async_checkpoints": True}, 12),
        ({"offload_optimizer": True}, 4),  # its averages are there
        ({"offload_optimizer": True, "async_checkpoints": True}, 12),  # they change while it is written
        ({"distributed_checkpoint": False}, 0),
    ],
)
def test_the_host_has_room_for_a_checkpoint(
    eight: Shapes, changes: dict[str, Any], bytes_a_weight: int
) -> None:
    held = memory(replace(ASKED, **changes), eight, H100)
    trained = eight.policy.shard + eight.value.shard
    assert held.host.get("copy of a checkpoint", 0) == bytes_a_weight * trained


def test_averages_in_the_host(eight: Shapes) -> None:
    plain = memory(ASKED, eight, H100)
    moved = memory(replace(ASKED, offload_optimizer=True), eight, H100)
    trained = eight.policy.shard + eight.value.shard
    assert moved.host["Adam's averages"] == 8 * trained
    assert plain.total("sampling") - moved.total("sampling") == 8 * trained
    # While a weight takes its step its averages are on the GPU: 1/8 of 128256 rows of 4096, twice 4 bytes.
    assert plain.total("updating") - moved.total("updating") == 8 * trained - 128256 * 4096


def test_activations_that_are_kept(eight: Shapes) -> None:
    again = memory(ASKED, eight, H100).updating["activations"]
    kept = memory(replace(ASKED, recompute=False), eight, H100).updating["activations"]
    assert kept == 8192 * (32 * kept_by_layer(eight, 2) + kept_besides(eight, 2)) > 10 * again


def test_engines_over_several_ranks(eight: Shapes) -> None:
    four = replace(ASKED, engine={**ASKED.engine, "ranks_per_engine": 4})
    assert engine_weight_bytes(four, eight) == engine_weight_bytes(ASKED, eight) / 4
    # keys and values: 2 x 32 layers x 8 heads x 128 x 2 bytes
    assert cache_bytes_per_token(ASKED, eight) == 2 * 32 * 8 * 128 * 2
    assert cache_bytes_per_token(four, eight) == 2 * 32 * 2 * 128 * 2
    sixteen = replace(ASKED, engine={**ASKED.engine, "ranks_per_engine": 16})
    assert cache_bytes_per_token(sixteen, eight) == 2 * 32 * 1 * 128 * 2


def said(asked: Asked, sizes: Shapes) -> str:
    plan = batches(asked, LENGTHS)
    found = findings(asked, sizes, plan, memory(asked, sizes, H100), LENGTHS, H100)
    return "\n".join(f"{one.kind}: {one.text}" for one in found)


def test_a_sound_config_has_no_findings(eight: Shapes) -> None:
    assert said(ASKED, eight) == ""


@pytest.mark.parametrize(
    ("changes", "engine", "text"),
    [
        (
            {"strategy": "DDPStrategy"},
            {},
            "wrong: 8 processes with trainer.strategy=DDPStrategy would",
        ),
        (
            {"strategy": "DDPStrategy"},
            {},
            "wrong: model.compute_dtype and model.offload_reference are",
        ),
        ({"data_parallel_size": 4}, {}, "wrong: trainer.strategy's data_parallel_size is 4 of 8 processes"),
        ({"data_parallel_size": None}, {}, "data_parallel_size is 1 of 8 processes"),  # "auto": the nodes
        ({"reload_every": 0}, {}, "wrong: trainer.reload_dataloaders_every_n_epochs is 0"),
        ({"precision": "bf16-mixed"}, {}, "wrong: trainer.precision is bf16-mixed; it must be 32-true"),
        (
            {"objective": GRPO()},
            {},
            "wrong: data.play.samples_per_problem is 1; model.objective=GRPO",
        ),
        ({"value_folder": "x", "value_network": "shared"}, {}, "wrong: model.value_folder='x' is of a value"),
        ({"lora": Lora(), "offload_reference": True}, {}, "wrong: model.reference_folder and model.offload"),
        ({"play": drawn(top_p=0.9)}, {}, "wrong: data.play.sampling.top_p is 0.9; training needs 1"),
        ({"play": drawn(temperature=0.0)}, {}, "wrong: data.play.sampling.temperature is 0"),
        ({"pack_tokens": 4096}, {}, "wrong: model.pack_tokens is 4096; a pack must hold the longest episode"),
        ({"minibatches": 2000}, {}, "wrong: data.minibatches_per_epoch=2000 is more than 1024 episodes"),
        ({"play": drawn(max_response_tokens=8192)}, {}, "leaves no room for a prompt"),
        ({"pack_tokens": 1 << 17}, {}, "wrong: updating needs"),
        ({"recompute": False}, {}, "model.recompute_activations"),
        ({}, {"ranks_per_engine": 3}, "ranks_per_engine=3 does not divide 8 processes"),
        ({}, {"max_context_tokens": 1 << 20}, "is beyond the model's 131072"),
        ({}, {"gpu_memory_utilization": 0.9}, "wrong: sampling needs"),
        ({}, {"gpu_memory_utilization": 0.1}, "wrong: an engine's weights take 15.0 GiB"),
        ({}, {"gpu_memory_utilization": 0.21}, "cache holds"),
        ({}, {"max_sequences": 512}, "lower data.engine.init_args.max_sequences"),
        ({}, {"dtype": "float32"}, "doubtful: data.engine.init_args.dtype is float32"),
        ({"compute_dtype": None}, {}, "doubtful: model.compute_dtype is float32"),
        ({"warmup_steps": 12_000}, {}, "doubtful: model.warmup_steps=12000, and the run has 12000 steps"),
        ({"minibatches": 256}, {}, "doubtful: a mini-batch has 4 episodes for 8 ranks"),
        ({"max_epochs": None}, {}, "doubtful: trainer.max_epochs is not set"),
        ({"max_episode_s": 1800.0}, {}, "wrong: data.pace.max_episode_s is 1800; with several ranks it must"),
        ({"max_in_flight": 31}, {}, "doubtful: data.pace.max_in_flight=31 is less than the 32 sequences"),
        # 1024 episodes for 8 engines; no more can be in flight.
        ({"max_in_flight": 64}, {"max_sequences": 100}, "data.pace.max_in_flight=64 is less than the "),
    ],
)
def test_findings(eight: Shapes, changes: dict[str, Any], engine: dict[str, Any], text: str) -> None:
    asked = replace(ASKED, **changes, engine={**ASKED.engine, **engine})
    assert text in said(asked, eight)


def test_one_process_needs_no_sharding(eight: Shapes) -> None:
    alone = replace(ASKED, devices=1, strategy="auto", compute_dtype=None)
    assert "trainer.strategy" not in said(alone, eight)


def test_tokenizers_are_compared_where_there_are_any(tmp_path: Path, eight: Shapes) -> None:
    tiny = str(Path(__file__).parents[3] / "tools" / "tiny_model" / "model")
    (tmp_path / "config.json").write_text(Path(tiny, "config.json").read_text())
    other = replace(ASKED, model_folder=tiny, reference_folder=str(tmp_path))
    assert f"wrong: no tokenizer in {str(tmp_path)!r} (model.reference_folder)" in said(other, eight)
    assert "no tokenizer" not in said(replace(ASKED, reference_folder=str(tmp_path)), eight)


def test_a_checkpoint_in_one_file_that_no_host_holds() -> None:
    config = replace(ASKED, model_folder=str(ARCHITECTURES / "llama-3.1-8b"), distributed_checkpoint=False)
    sizes = shapes(config.model_folder, 8)
    large = replace(sizes, policy=replace(sizes.policy, trained_weights=150_000_000_000))
    # 12 bytes a weight: itself and two averages; 150e9 of the policy and 7.5e9 of the value network.
    assert "doubtful: a checkpoint in one file brings 1760 GiB" in said(config, large)


def test_the_plan_is_plain_and_can_be_shown() -> None:
    plan = make_plan(ASKED, H100, LENGTHS)
    assert json.loads(json.dumps(plan)) == plan
    text = io.StringIO()
    show(plan, Console(file=text, width=120))
    for word in ("Memory of each GPU (74.5 GiB)", "12000", "nothing that will not fit", "assumed: h100-80gb"):
        assert word in text.getvalue()


def test_bytes_for_people() -> None:
    assert [in_bytes(value) for value in (999, 1.5e3, 2e6, 1.5e9, 3e12)] == [
        "999 B", "1.5 kB", "2.0 MB", "1.5 GB", "3.0 TB",
    ]  # fmt: skip


def test_devices_must_be_a_number() -> None:
    assert (_devices(8), _devices("4"), _devices([0, 1])) == (8, 4, 2)
    with pytest.raises(ConfigError, match="a plan needs the number of GPUs"):
        _devices("auto")
