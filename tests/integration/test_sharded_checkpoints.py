"""Shards of a run on two ranks: two ranks and one go on from them, transformers and vLLM load the export."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlef_lightning.generation import VLLMEngine
from rlef_lightning.models.exporting import export
from rlef_lightning.models.networks import load_policy
from rlef_lightning.models.weights import engine_weights
from rlef_lightning.types import Completion, Sampling

from .commands import LAST, MODEL, ROOT, SMALL, curve, rlef, succeed
from .cpu_engine import CPU_ENGINE
from .engine_checks import sample

pytestmark = [pytest.mark.slow, CPU_ENGINE]

TWO = f"--config={ROOT}/configs/trainer/two_cpu_ranks.yaml"
ONE = '--trainer.strategy={"class_path": "rlef_lightning.sharded.ShardedStrategy"}'
OPTIONS = (
    *SMALL,
    "--model.learning_rate=0.001",
    "--model.warmup_steps=1",
    "--trainer.check_val_every_n_epoch=5",
)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks")
    succeed("fit", TWO, *OPTIONS, "--trainer.max_epochs=1", cwd=folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the checkpoint, whole."""
    whole = folder / "whole.pt"
    dcp_to_torch_save(folder / LAST, whole)
    state = torch.load(whole, weights_only=False)
    assert {name.split(".")[0] for name in state["state_dict"]} == {"policy", "value"}
    return dict(state["state_dict"])


def resumed(folder: Path, target: Path, *options: str) -> Path:
    """Goes on for one epoch in a copy, as after a kill between the two renames of a checkpoint."""
    shutil.copytree(folder, target)
    (target / LAST).rename((target / LAST).with_name(".last.ckpt.old"))
    output = succeed("fit", *options, *OPTIONS, "--trainer.max_epochs=2", "--ckpt_path=last", cwd=target)
    assert "Restored all states" in output
    return target


def test_one_rank_goes_on_as_two_do(two_ranks: Path, tmp_path: Path) -> None:
    before = weights(two_ranks)
    two = resumed(two_ranks, tmp_path / "two", TWO)
    one = resumed(two_ranks, tmp_path / "one", ONE)
    assert [row["epoch"] for row in curve(one)] == [row["epoch"] for row in curve(two)]
    # Two steps, whose gradients are added up in another order. What is loaded, and the first loss, are held
    # to the bit and to 1e-6 by tests/unit/test_resuming_on_ranks.py.
    for ours, theirs in zip(curve(one), curve(two), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    found, wanted = weights(one), weights(two)
    assert any(not torch.equal(wanted[name], before[name]) for name in wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=1e-5)


def test_a_torn_folder_is_refused(two_ranks: Path, tmp_path: Path) -> None:
    shutil.copytree(two_ranks, tmp_path / "torn")
    (tmp_path / "torn" / LAST / ".metadata").unlink()
    done = rlef("fit", ONE, *OPTIONS, "--ckpt_path=last", "--trainer.max_epochs=2", cwd=tmp_path / "torn")
    assert done.returncode == 1, done.stderr[-2000:]
    assert "there is no whole checkpoint" in done.stderr


def greedy(engine: VLLMEngine) -> list[Completion]:
    """Likeliest tokens after a few prompts."""
    cold = Sampling(temperature=0.0, max_response_tokens=24)
    prompts = [[1, 3, 304, 267, 317, 4], [1, 3, *range(20, 60), 4], [1, 3, 5, 4]]
    return sample(engine, [(prompt, cold, number) for number, prompt in enumerate(prompts)])


def spoken(folder: Path, policy: PreTrainedModel | None = None) -> list[Completion]:
    """By vLLM with the folder's weights, by its own loader; or with a policy's, as synced in training."""
    how = {} if policy is not None else {"load_format": "safetensors"}
    engine = VLLMEngine(max_context_tokens=128, max_sequences=8, enforce_eager=True, extra=how)
    engine.start(str(folder), [2])
    try:
        if policy is not None:
            engine.sync_weights(engine_weights(policy))
        return greedy(engine)
    finally:
        engine.close()


def test_the_exported_policy_is_that_of_the_run(two_ranks: Path, tmp_path: Path) -> None:
    folder = export(two_ranks / LAST, str(MODEL), tmp_path / "exported", torch.float32)
    prefix = "policy.model."
    trained = {n.removeprefix(prefix): w for n, w in weights(two_ranks).items() if n.startswith(prefix)}
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name]) for name in trained)

    policy = load_policy(str(MODEL))
    untrained = policy.state_dict()
    assert any(not torch.equal(untrained[name], trained[name]) for name in trained)
    policy.load_state_dict(trained)
    synced, exported = spoken(MODEL, policy), spoken(folder)
    assert [one.token_ids for one in exported] == [one.token_ids for one in synced]
    for ours, theirs in zip(exported, synced, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-6)
