"""A gradient that is not finite ends the run before its step: weights and checkpoint are those before it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from rlef_lightning.errors import TrainingError
from rlef_lightning.learning.minibatches import MiniBatch, make_minibatches
from rlef_lightning.loaders import loader
from rlef_lightning.models.lora import whole
from rlef_lightning.module import RLEFModule
from rlef_lightning.updating import clip_gradients
from tests.sharded_runs import module_of, strategy_of
from tests.small_runs import episodes, model_folder, take_step
from tests.two_ranks import on_two_ranks

pytestmark = pytest.mark.slow

PACK_TOKENS = 40


def network(*gradients: float) -> torch.nn.Module:
    made = torch.nn.Linear(len(gradients), 1, bias=False)
    made.weight.grad = torch.tensor([gradients])
    return made


@pytest.mark.parametrize(("limit", "left"), [(1.0, [0.6, 0.8]), (None, [3.0, 4.0]), (10.0, [3.0, 4.0])])
def test_norms_by_hand(limit: float | None, left: list[float]) -> None:
    trained = network(3.0, 4.0)  # norm 5; scaled to norm 1 they are 3/5 and 4/5
    assert clip_gradients({"policy": trained, "value": None}, limit) == {"gradient_norm_policy": 5.0}
    assert trained.weight.grad[0].tolist() == pytest.approx(left, abs=1e-6)


@pytest.mark.parametrize("limit", [1.0, None])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_network_is_named(limit: float | None, bad: float) -> None:
    networks = {"policy": network(3.0, 4.0), "value": network(bad)}
    with pytest.raises(TrainingError, match=rf"gradient norm of the value network is {bad}; it must be fin"):
        clip_gradients(networks, limit)
    assert networks["policy"].weight.grad[0].tolist() == [3.0, 4.0]


class Batches(L.LightningDataModule):
    """The same two mini-batches each epoch."""

    def __init__(self, batches: list[MiniBatch]) -> None:
        super().__init__()
        self.batches = batches
        self.collection_metrics: dict[str, float] = {}

    def train_dataloader(self) -> DataLoader[MiniBatch]:
        return loader(self.batches)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch


class Spoils(L.Callback):
    """In the second step of epoch 1 a value's gradient is not a number; keeps the weights before it."""

    before: dict[str, torch.Tensor]

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 1):
            self.before = {name: weight.clone() for name, weight in module.state_dict().items()}
            module.value.head.bias.register_hook(lambda gradient: gradient * float("nan"))


@pytest.mark.parametrize("limit", [1.0, None])
def test_the_checkpoint_before_it_survives(tmp_path: Path, limit: float | None) -> None:
    folder = model_folder(tmp_path / "model", tied=False)
    module = RLEFModule(folder, learning_rate=1e-3, gradient_clip_norm=limit, pack_tokens=PACK_TOKENS)
    module.configure_model()
    batches = make_minibatches(module.score(episodes(6), 1.0).samples, 2, PACK_TOKENS, seed=0)
    last = ModelCheckpoint(
        dirpath=tmp_path, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    spoils = Spoils()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, callbacks=[spoils, last], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"^epoch 1, step 1: the gradient norm of the value network is n"):
        trainer.fit(module, Batches(batches))
    assert torch.load(tmp_path / "last.ckpt", weights_only=False)["epoch"] == 0
    assert trainer.global_step == 3
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    assert all(torch.equal(weight, spoils.before[name]) for name, weight in module.state_dict().items())
    assert all(weight.grad is None for weight in module.parameters())


def one_rank_is_spoilt(rank: int, folder: Path, limit: float | None) -> None:
    """Rank 1 alone has the element that is not a number."""
    module = module_of(folder, learning_rate=1e-3, gradient_clip_norm=limit, pack_tokens=PACK_TOKENS)
    strategy = strategy_of(module)
    samples = module.score(episodes(4), 1.0).samples
    (batch,) = make_minibatches(samples, 1, PACK_TOKENS, 0, rank=rank, ranks=2)
    before = {name: whole(weight).clone() for name, weight in module.named_parameters()}
    weight = module.policy.model.get_output_embeddings().weight

    def spoil(parameter: torch.Tensor) -> None:
        parameter.grad.to_local()[0, 0] = float("nan")  # type: ignore[union-attr]

    if rank == 1:
        weight.register_post_accumulate_grad_hook(spoil)
    options = {
        "optimizer": strategy.optimizers[0],
        "lr_scheduler": SimpleNamespace(step=lambda: pytest.fail("a step was taken")),
    }
    with pytest.raises(TrainingError, match="gradient norm of the policy network is nan"):
        take_step(module, batch, options, {}, last=True)
    for name, parameter in module.named_parameters():
        assert torch.equal(whole(parameter), before[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1.0, None])
def test_all_ranks_end_where_one_is_spoilt(tmp_path: Path, limit: float | None) -> None:
    on_two_ranks(one_rank_is_spoilt, Path(model_folder(tmp_path / "model", tied=False)), limit)
