"""LoRA against plain transformers: W + (alpha / rank) B A, a frozen base, and what leaves the trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlef_lightning.errors import CheckpointError, ConfigError
from rlef_lightning.learning.minibatches import make_minibatches
from rlef_lightning.models.exporting import export
from rlef_lightning.models.lora import Lora, LoraLinear, adapted_layers, reset_adapters
from rlef_lightning.module import RLEFModule
from tests.small_runs import episodes, gradients_of, model_folder

TINY = str(Path(__file__).parents[2] / "tools" / "tiny_model" / "model")
LORA = Lora(rank=4, alpha=6.0, target_modules=("q_proj", "v_proj", "down_proj"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model_folder(tmp_path_factory.mktemp("model"), tied=False)


def built(folder: str, lora: Lora | None = LORA, **options: Any) -> RLEFModule:
    module = RLEFModule(folder, lora=lora, **{"gradient_clip_norm": None, **options})
    module.configure_model()
    return module


def moved(module: RLEFModule) -> RLEFModule:
    """As after training: B is no longer zero."""
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for layer in adapted_layers(module.policy).values():
            layer.lora_B.add_(torch.randn(layer.lora_B.shape, generator=draw), alpha=0.2)
    return module


def merged(module: RLEFModule, folder: str) -> Any:
    """transformers' own model with weights that were put together here."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, layer in adapted_layers(module.policy.model).items():
            product = layer.lora_B.double() @ layer.lora_A.double()
            model.get_submodule(name).weight += (6.0 / 4.0 * product).float()
    return model


def logprobs_of(model: Any, ids: tuple[int, ...]) -> list[float]:
    tokens = torch.tensor(ids)
    logits = model(tokens[None]).logits[0, :-1]
    found: list[float] = logits.log_softmax(-1).gather(-1, tokens[1:, None])[:, 0].tolist()
    return found


IDS = ((3, 1, 4, 1, 5, 9, 2, 6), (5, 3, 5, 8, 9, 7, 9))


def test_adapters_are_drawn_on_the_cpu_whatever_the_default_device(folder: str) -> None:
    ours, theirs = built(folder, seed=1), built(folder, seed=2)
    with torch.device("meta"):  # as Lightning's default of a GPU: other than the generator's
        reset_adapters(ours.policy.model, 2)
    others = adapted_layers(theirs.policy)
    for name, layer in adapted_layers(ours.policy).items():
        assert torch.equal(layer.lora_A, others[name].lora_A)


def test_by_hand() -> None:
    linear = torch.nn.Linear(2, 1, bias=True)
    layer = LoraLinear(linear, rank=1, scale=3.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.bias.copy_(torch.tensor([0.5]))
        layer.lora_A.copy_(torch.tensor([[1.0, -1.0]]))
        layer.lora_B.copy_(torch.tensor([[2.0]]))
    # W x + b = 1 x 4 + 2 x 1 + 0.5; B A x = 2 x (4 - 1)
    assert layer(torch.tensor([4.0, 1.0])).item() == 6.5 + 3.0 * 6.0
    # W + 3 x [2, -2]
    assert layer.merged().tolist() == [[7.0, -4.0]]
    assert layer.weight.tolist() == [[1.0, 2.0]]


def test_adapters_add_nothing_at_first_and_are_merged_for_the_engine(folder: str) -> None:
    module = built(folder)
    plain = built(folder, lora=None)
    assert module.sequence_logprobs(IDS) == plain.sequence_logprobs(IDS)
    base = {name: weight.clone() for name, weight in plain.policy.model.state_dict().items()}
    moved(module)
    model = merged(module, folder)
    for found, ids in zip(module.sequence_logprobs(IDS), IDS, strict=True):
        assert found == pytest.approx(logprobs_of(model, ids), abs=2e-5)
    sent = dict(module.engine_weights())
    assert list(sent) == [name for name, _ in plain.engine_weights()]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(sent[name], weight, atol=1e-6, rtol=1e-6)
    changed = {name for name in base if not torch.equal(sent[name], base[name])}
    assert {name.split(".")[-2] for name in changed} == set(LORA.target_modules or ())
    own = module.policy.model.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in base.items())


def test_the_reference_is_the_base(folder: str) -> None:
    module, plain = moved(built(folder)), built(folder, lora=None)
    wanted, found = plain.score(episodes(6), 1.0), module.score(episodes(6), 1.0)
    assert found.metrics["kl"] != 0.0 == wanted.metrics["kl"]
    assert len(set(map(id, module.policy.parameters()))) == len(list(module.parameters())) - len(
        list(module.value.parameters())
    )
    # After a pass of the reference the adapters count again.
    assert all(layer.adapted for layer in adapted_layers(module.policy).values())
    assert module.reference(_Packed(), lambda hidden, weight: hidden).shape == (3, 32)
    with torch.no_grad():
        base = plain.policy(_Packed(), lambda hidden, weight: hidden)
        assert torch.equal(module.reference(_Packed(), lambda hidden, weight: hidden), base)
        assert not torch.equal(module.policy(_Packed(), lambda hidden, weight: hidden), base)


class _Packed:
    token_ids = torch.tensor([3, 1, 4, 1])
    position_ids = torch.arange(4)
    cu_seqlens = torch.tensor([0, 4], dtype=torch.int32)
    max_seqlen = 4
    response_index = torch.arange(3)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_gradients_are_those_of_merged_weights(folder: str, shared: bool) -> None:
    """dL/dB = s dL/dW A^T and dL/dA = s B^T dL/dW, where dL/dW is of a run with the merged weights."""
    options = {"value_network": "shared" if shared else "own", "recompute_activations": True}
    module = built(folder, **options)
    samples = module.score(episodes(6), 1.0).samples
    moved(module)
    (small,), (large,) = (make_minibatches(samples, 1, size, seed=0) for size in (31, 1000))
    found, _ = gradients_of(module, large)
    packed, _ = gradients_of(module, small)
    assert len(small.packs) > 1 == len(large.packs)
    other = built(folder, lora=None, **options)
    weights = dict(module.engine_weights())
    other.policy.model.load_state_dict(weights, strict=False)
    wanted, _ = gradients_of(other, large)
    adapters = {name for name in found if name.startswith("policy.model.")}
    assert adapters == {
        f"policy.model.{name}.{part}"
        for name in adapted_layers(module.policy.model)
        for part in ("lora_A", "lora_B")
    }
    for name, layer in adapted_layers(module.policy.model).items():
        whole: Tensor = wanted[f"policy.model.{name}.weight"]
        up = 1.5 * whole @ layer.lora_A.T
        down = 1.5 * layer.lora_B.T @ whole
        for part, expected in (("lora_B", up), ("lora_A", down)):
            for gradients in (found, packed):
                gradient = gradients[f"policy.model.{name}.{part}"]
                torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)
    heads = {name for name in found if "head" in name}
    assert heads
    for name in heads:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-3)


def test_the_optimizer_has_adapters_and_values_only(folder: str) -> None:
    module = built(folder)
    policy, value = module.configure_optimizers()["optimizer"].param_groups
    assert len(policy["params"]) == 2 * 3 * 3  # A and B, three layers, three targets
    assert len(value["params"]) == len(list(module.value.parameters()))


def test_a_base_in_half_precision(folder: str) -> None:
    module = moved(built(folder, reference_dtype="bfloat16", value_network="shared"))
    dtypes = {n.rpartition(".")[2]: w.dtype for n, w in module.policy.named_parameters() if "proj" in n}
    assert dtypes == {"weight": torch.bfloat16, "lora_A": torch.float32, "lora_B": torch.float32}
    for name, weight in module.engine_weights():
        assert weight.dtype == (torch.float32 if "q_proj" in name else weight.dtype)
    samples = module.score(episodes(6), 1.0).samples
    found, _ = gradients_of(module, make_minibatches(samples, 1, 1000, seed=0)[0])
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}


def test_a_checkpoint_has_adapters_and_says_what_they_are_of(folder: str) -> None:
    module = moved(built(folder, value_network="shared"))
    state = module.state_dict()
    assert {name.rpartition(".")[2] for name in state} == {"lora_A", "lora_B", "weight", "bias"}
    assert {name for name in state if "lora" not in name} == {
        "policy.value_head.weight", "policy.value_head.bias",
    }  # fmt: skip
    checkpoint: dict[str, Any] = {"state_dict": state}
    module.on_save_checkpoint(checkpoint)
    again = built(folder, value_network="shared", seed=5)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(state, strict=False)
    assert again.sequence_logprobs(IDS) == module.sequence_logprobs(IDS)
    for lora in (None, Lora(rank=4, alpha=8.0, target_modules=LORA.target_modules), Lora(rank=2)):
        with pytest.raises(CheckpointError, match=r"model\.lora rank=4, alpha=6\.0.*, this one has"):
            built(folder, lora, value_network="shared").on_load_checkpoint(checkpoint)


def test_adapters_of_another_base_are_refused(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = moved(built(folder))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.add_(0.5)
    other.save_pretrained(tmp_path / "other")
    again = built(str(tmp_path / "other"))
    bases = (module.reference_fingerprint, again.reference_fingerprint)
    says = r"are of a base with the fingerprint {}, the weights of {}.*{}.* have {}: name the model folder"
    with pytest.raises(
        CheckpointError, match=says.format(bases[0], r"model\.model_folder", "other", bases[1])
    ):
        again.on_load_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=says.format(bases[0], "--model_folder", "other", bases[1])):
        export(tmp_path / "last.ckpt", str(tmp_path / "other"), tmp_path / "new", torch.float32)
    assert not (tmp_path / "new").exists()
    del checkpoint["lora"]["base"]
    del checkpoint["decided_by"]
    again.on_load_checkpoint(checkpoint)  # of an older version
    assert "does not say which weights its adapters are of" in caplog.text


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[RLEFModule, Path]:
    """The tiny model with adapters that were moved, and its checkpoint."""
    module = moved(built(TINY))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    torch.save(checkpoint, path)
    return module, path


def test_export_merges(tiny: tuple[RLEFModule, Path], tmp_path: Path) -> None:
    module, path = tiny
    written = export(path, TINY, tmp_path / "exported", torch.float32)
    found = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32).state_dict()
    wanted = dict(module.engine_weights())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    half = export(path, TINY, tmp_path / "half", torch.bfloat16)
    found = AutoModelForCausalLM.from_pretrained(half, dtype="auto").state_dict()
    assert all(torch.equal(found[name], wanted[name].bfloat16()) for name in wanted)


def test_export_of_the_adapters_alone(tiny: tuple[RLEFModule, Path], tmp_path: Path) -> None:
    module, path = tiny
    folder = export(path, TINY, tmp_path / "adapter", torch.float32, adapter=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 6.0)
    assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    weights = load_file(folder / "adapter_model.safetensors")
    assert len(weights) == 2 * 3 * 3
    layer = module.policy.model.get_submodule("model.layers.1.self_attn.q_proj")
    assert torch.equal(
        weights["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"], layer.lora_B
    )
    torch.save({"state_dict": {}}, tmp_path / "plain.ckpt")
    with pytest.raises(CheckpointError, match=r"--adapter: .*plain\.ckpt is of a run without model\.lora"):
        export(tmp_path / "plain.ckpt", TINY, tmp_path / "none", torch.float32, adapter=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 0}, r"model\.lora\.rank is 0"),
        ({"alpha": 0.0}, r"alpha 0\.0; the rank"),
        ({"dropout": 0.1}, r"model\.lora\.dropout is 0\.1; it must be 0"),
    ],
)
def test_values_that_make_no_sense(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Lora(**values)


def test_targets_that_are_not_there(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"target_modules: lm_head, wq to adapt; .* down_proj, gate_proj"):
        built(folder, Lora(target_modules=("q_proj", "wq", "lm_head")))


def test_all_linear_layers_by_default(folder: str) -> None:
    names = {name.rpartition(".")[2] for name in adapted_layers(built(folder, Lora(rank=2)).policy)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    "options", [{"reference_folder": TINY}, {"offload_reference": True}], ids=["folder", "host"]
)
def test_options_of_a_reference_of_its_own(folder: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"with model\.lora it is the policy without adapters"):
        RLEFModule(folder, lora=LORA, **options).check_folders(64)
