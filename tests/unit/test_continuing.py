"""A checkpoint of another run is refused with every difference, and what decides nothing may change."""

from __future__ import annotations

import inspect
import io
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlef_lightning.continuing import DECIDED_BY, LEFT_OUT, decisions
from rlef_lightning.datamodule import RolloutDataModule
from rlef_lightning.errors import CheckpointError
from rlef_lightning.learning.objectives import GRPO, PPO, TokenValuePPO
from rlef_lightning.module import RLEFModule
from rlef_lightning.rollout import Pace, PlaySettings
from tests.small_runs import model_folder

LEARNS = {"warmup_steps": 3, "gradient_clip_norm": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model_folder(tmp_path_factory.mktemp("model"), tied=False)


@pytest.fixture(scope="module")
def other(folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the same shapes."""
    path = tmp_path_factory.mktemp("other")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    model.save_pretrained(path)
    return str(path)


def data_of(ids: str = "abc", **options: Any) -> RolloutDataModule:
    parts: Any = SimpleNamespace()
    data = RolloutDataModule(parts, parts, parts, **options)
    data.splits = {"train": [SimpleNamespace(id=name) for name in ids]}  # type: ignore[dict-item,misc]
    return data


def built(
    folder: str, data: RolloutDataModule | None = None, command: str = "fit", **options: Any
) -> RLEFModule:
    module = RLEFModule(folder, **{**LEARNS, **options})
    state = SimpleNamespace(fn=command)
    module._trainer = SimpleNamespace(state=state, datamodule=data or data_of())  # type: ignore[assignment]
    module.configure_model()
    return module


def saved(module: RLEFModule) -> dict[str, Any]:
    """As a run that goes on reads it; nothing in it is run as code."""
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    checkpoint["optimizer_states"] = [module.configure_optimizers()["optimizer"].state_dict()]
    module.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


def refused(module: RLEFModule, checkpoint: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as refusal:
        module.on_load_checkpoint(checkpoint)
    return str(refusal.value)


def test_the_same_run_goes_on(folder: str) -> None:
    play = PlaySettings(turn_limit=2)
    arguments = {"enable_thinking": False, "levels": (1, 2)}
    checkpoint = saved(built(folder, data_of(play=play, template_arguments=arguments)))
    again = {"enable_thinking": False, "levels": [1, 2]}
    built(folder, data_of(play=play, template_arguments=again)).on_load_checkpoint(checkpoint)


def test_every_difference_is_listed(folder: str) -> None:
    checkpoint = saved(built(folder))
    data = data_of("abd", minibatches_per_epoch=2, play=PlaySettings(samples_per_problem=4))
    said = refused(
        built(folder, data, objective=TokenValuePPO(beta=0.5), gradient_clip_norm=None, warmup_steps=7),
        checkpoint,
    )
    for difference in (
        "model.objective: 'PPO' in the checkpoint, 'TokenValuePPO' now",
        "model.objective.value_level: 'turn' in the checkpoint, 'token' now",
        "model.objective.beta: 0.05 in the checkpoint, 0.5 now",
        "model.gradient_clip_norm: 1.0 in the checkpoint, None now",
        "model.warmup_steps: 3 in the checkpoint, 7 now",
        "data.minibatches_per_epoch: 4 in the checkpoint, 2 now",
        "data.play.samples_per_problem: 1 in the checkpoint, 4 now",
        "data.problems, fingerprint of the training problems' ids: ",
    ):
        assert difference in said
    assert said.count(" in the checkpoint, ") == 8
    assert "set model.allow_changes=true" in said
    assert "cannot change" not in said


def test_the_same_objective_with_another_number(folder: str) -> None:
    said = refused(built(folder, objective=PPO(beta=0.1)), saved(built(folder)))
    assert said.count(" in the checkpoint, ") == 1
    assert "model.objective.beta: 0.05 in the checkpoint, 0.1 now" in said


@pytest.mark.parametrize("option", ["reference_folder", "model_folder"])
def test_another_reference_of_the_same_shape(folder: str, other: str, option: str) -> None:
    first = built(folder)
    second = built(**{"folder": folder, option: other} if option == "reference_folder" else {"folder": other})
    said = refused(second, saved(first))
    assert "model.reference_folder (null: model.model_folder), fingerprint of its weights: " in said
    assert f"{first.reference_fingerprint!r} in the checkpoint, {second.reference_fingerprint!r} now" in said


def test_the_reference_may_be_named_and_moved(folder: str, tmp_path: Path) -> None:
    checkpoint = saved(built(folder))
    moved = tmp_path / "moved"
    moved.symlink_to(folder)
    built(str(moved), reference_folder=folder).on_load_checkpoint(checkpoint)


def test_what_decides_nothing_may_change(folder: str, other: str) -> None:
    checkpoint = saved(built(folder))
    data = data_of(pace=Pace(max_in_flight=3), parity_tolerance=0.5, rank_timeout_s=3.0, pack_tokens=7)
    built(
        folder, data, seed=5, pack_tokens=100, recompute_activations=True, offload_optimizer=True,
        value_folder=other,
    ).on_load_checkpoint(checkpoint)  # fmt: skip


def test_changes_that_are_allowed_are_logged(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = saved(built(folder))
    with caplog.at_level(logging.WARNING):
        built(folder, objective=TokenValuePPO(), allow_changes=True).on_load_checkpoint(checkpoint)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "model.objective: 'PPO' in the checkpoint, 'TokenValuePPO' now" in line


def test_what_the_optimizer_brings_back_cannot_be_allowed(folder: str) -> None:
    checkpoint = saved(built(folder))
    said = refused(built(folder, weight_decay=0.5, warmup_steps=9), checkpoint)
    assert "model.weight_decay: 0.1 in the checkpoint, 0.5 now; model.warmup_steps: 3" in said or (
        "model.warmup_steps: 3 in the checkpoint, 9 now; model.weight_decay: 0.1" in said
    )
    assert said.endswith("(model.weight_decay cannot change: the optimizer's state brings it back)")
    assert "model.weight_decay" in refused(built(folder, weight_decay=0.5, allow_changes=True), checkpoint)


def test_a_checkpoint_that_does_not_say_is_taken(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = saved(built(folder))
    del checkpoint[DECIDED_BY]
    with caplog.at_level(logging.WARNING):
        built(folder, warmup_steps=9).on_load_checkpoint(checkpoint)
    assert "does not say what decided its run" in caplog.text


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_any_run_is_evaluated(folder: str, other: str, command: str) -> None:
    checkpoint = saved(built(folder, objective=GRPO()))
    built(other, data_of("xyz", seed=4), command, warmup_steps=9).on_load_checkpoint(checkpoint)


def test_long_texts_that_differ_look_different(folder: str) -> None:
    prompts = data_of().prompts
    one, two = (replace(prompts, first="word " * 50 + f"{end} {{statement}}") for end in "ab")
    said = refused(built(folder, data_of(prompts=two)), saved(built(folder, data_of(prompts=one))))
    there, now = (
        said.partition("data.prompts.first: ")[2].partition(". Resume")[0].split(" in the checkpoint, ")
    )
    assert there.startswith("'word word")
    assert there != now.removesuffix(" now")


def test_which_options_decide(folder: str) -> None:
    """Written out, so that whoever adds an option decides whether a resumed run may change it."""
    for name, kind in (("model", RLEFModule), ("data", RolloutDataModule)):
        assert LEFT_OUT[name] <= inspect.signature(kind).parameters.keys()
    module = built(folder)
    found = {".".join(option.split(".")[:2]) for option in decisions(module)}
    assert found == {
        "model.objective", "model.reference_folder", "model.value_network", "model.value_loss_weight",
        "model.learning_rate", "model.value_learning_rate", "model.weight_decay", "model.betas",
        "model.warmup_steps", "model.gradient_clip_norm", "model.reference_dtype", "model.compute_dtype",
        "data.problems", "data.prompts", "data.system_prompt", "data.template_arguments", "data.play",
        "data.problems_per_epoch", "data.minibatches_per_epoch", "data.long_prompts", "data.seed",
    }  # fmt: skip
