"""A module that takes over weights and optimizer state goes on bit for bit, whatever it trains."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from rlef_lightning.errors import CheckpointError
from rlef_lightning.learning.minibatches import make_minibatches
from rlef_lightning.models.lora import Lora
from rlef_lightning.module import RLEFModule
from tests.small_runs import episodes, model_folder, take_step

PACK_TOKENS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model_folder(tmp_path_factory.mktemp("model"), tied=False)


def started(folder: str, options: dict[str, Any]) -> tuple[RLEFModule, Any]:
    module = RLEFModule(folder, learning_rate=1e-2, warmup_steps=3, pack_tokens=PACK_TOKENS, **options)
    module.configure_model()
    return module, module.configure_optimizers()


@pytest.mark.parametrize(
    "options",
    [
        {"value_network": "shared"},
        {"lora": Lora(rank=2)},
        {"lora": Lora(rank=2), "value_network": "shared", "offload_optimizer": True},
        {"offload_optimizer": True},
    ],
    ids=["shared", "lora", "all", "offloaded"],
)
def test_the_next_step_is_the_same(folder: str, options: dict[str, Any]) -> None:
    module, optimizers = started(folder, options)
    batches = make_minibatches(module.score(episodes(9), 1.0).samples, 3, PACK_TOKENS, seed=0)
    for batch in batches[:2]:
        take_step(module, batch, optimizers, {}, last=False)
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    checkpoint["optimizers"] = {name: part.state_dict() for name, part in optimizers.items()}
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    again, others = started(folder, {**options, "seed": 7})
    again.on_load_checkpoint(read)
    again.load_state_dict(read["state_dict"], strict=False)
    for name, part in others.items():
        part.load_state_dict(read["optimizers"][name])
    for each, parts in ((module, optimizers), (again, others)):
        take_step(each, batches[2], parts, {}, last=False)
    weights = dict(again.named_parameters())
    assert weights.keys() == dict(module.named_parameters()).keys()
    for name, weight in module.named_parameters():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("offloaded", [False, True])
def test_how_averages_are_moved_is_not_the_checkpoints_choice(folder: str, offloaded: bool) -> None:
    """`offload_optimizer` can be switched between runs: the fused AdamW stays fused."""
    module, optimizers = started(folder, {"offload_optimizer": not offloaded})
    batch = make_minibatches(module.score(episodes(3), 1.0).samples, 1, PACK_TOKENS, seed=0)[0]
    take_step(module, batch, optimizers, {}, last=False)
    own = started(folder, {"offload_optimizer": offloaded})[1]["optimizer"]
    before = [(group["fused"], group["foreach"]) for group in own.param_groups]
    own.load_state_dict(optimizers["optimizer"].state_dict())
    assert [(group["fused"], group["foreach"]) for group in own.param_groups] == before
    assert before == ([(None, False)] * 2 if offloaded else [(True, None)] * 2)
    assert len(own.state) == len(list(module.parameters()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weight_decay": 0.5}, "model.weight_decay (--ckpt_path): it is 0.1 there and 0.5 here"),
        ({"betas": (0.9, 0.99)}, "model.betas (--ckpt_path): it is (0.9, 0.95) there and (0.9, 0.99) here"),
        (
            {"value_learning_rate": 1.0},
            "model.value_learning_rate (--ckpt_path): it is 0.01 there and 1.0 here",
        ),
    ],
)
def test_other_steps_than_the_options_say_are_refused(
    folder: str, options: dict[str, Any], says: str
) -> None:
    module, optimizers = started(folder, {})
    optimizers["optimizer"].step()
    optimizers["lr_scheduler"].step()  # of a warm-up of three: what is compared is the rate after it
    stored = {
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizers["optimizer"].state_dict()],
    }
    started(folder, {})[0].on_load_checkpoint(stored)
    with pytest.raises(CheckpointError) as refused:
        started(folder, options)[0].on_load_checkpoint(stored)
    assert says in str(refused.value)


def test_frozen_weights_are_in_no_checkpoint(folder: str) -> None:
    whole, adapters = (started(folder, {"lora": lora})[0] for lora in (None, Lora(rank=2)))
    named = {name for name, weight in adapters.named_parameters() if weight.requires_grad}
    assert set(adapters.state_dict()) == named
    assert set(whole.state_dict()) == {name for name, _ in whole.named_parameters()}
    assert not any("lora" in name for name in whole.state_dict())
