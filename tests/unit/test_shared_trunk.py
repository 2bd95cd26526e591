"""A value head on the policy's trunk: against plain transformers, one sequence after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlef_lightning.errors import CheckpointError
from rlef_lightning.learning.minibatches import make_minibatches
from rlef_lightning.learning.objectives import GRPO, PPO, TokenValuePPO
from rlef_lightning.learning.packing import collate_sequences
from rlef_lightning.learning.samples import TrainingSample, episode_sequence
from rlef_lightning.models.networks import PolicyValueNetwork, ValueNetwork
from rlef_lightning.module import RLEFModule
from rlef_lightning.scoring import Networks
from tests.small_runs import episodes, gradients_of, model_folder

WEIGHT = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model_folder(tmp_path_factory.mktemp("model"), tied=True)


def built(folder: str, **options: Any) -> RLEFModule:
    options = {"value_network": "shared", "value_loss_weight": WEIGHT, "gradient_clip_norm": None} | options
    module = RLEFModule(folder, **options)
    module.configure_model()
    return module


def moved(module: RLEFModule, size: float = 0.02) -> RLEFModule:
    """As after training."""
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw), alpha=size)
    return module


def plain(module: RLEFModule, folder: str) -> Any:
    """transformers' own model with the module's weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model.load_state_dict(module.policy.model.state_dict())
    return model.eval()


def by_hand(model: Any, head: Any, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of one sequence: log-probability of each token after the first, and the value at each place."""
    hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
    logits = hidden @ model.get_output_embeddings().weight.T
    targets = torch.tensor(ids[1:])[:, None]
    logprobs = logits[:-1].log_softmax(-1).gather(-1, targets)[:, 0]
    return logprobs, hidden @ head.weight[0] + head.bias[0]


@pytest.mark.parametrize("level", ["turn", "token"])
def test_one_pass_gives_what_sequences_one_by_one_give(folder: str, level: Any) -> None:
    module = moved(built(folder))
    passes = []
    module.policy.model.base_model.register_forward_hook(lambda *call: passes.append(call))
    networks = Networks(policy=module.policy, reference=module.reference, value=None, value_level=level)
    played = [episode_sequence(episode) for episode in episodes(5)]
    with torch.no_grad():
        logprobs, _, values = networks.policy_and_values(collate_sequences(played), 1.0)
    assert len(passes) == 1
    model, wanted_logprobs, wanted_values = plain(module, folder), [], []
    for sequence in played:
        said, read = by_hand(model, module.policy.value_head, sequence.token_ids)
        for start, stop in sequence.spans:
            wanted_logprobs.append(said[start - 1 : stop - 1])
            wanted_values.append(read[start - 1 : stop - 1 if level == "token" else start].tolist())
    torch.testing.assert_close(logprobs, torch.cat(wanted_logprobs), atol=1e-5, rtol=1e-5)
    for found, wanted in zip(values, wanted_values, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)


def loss_by_hand(model: Any, head: Any, samples: Sequence[TrainingSample], old: Sequence[Tensor]) -> Tensor:
    """RLEF, sec. 2.2, with plain tensors: policy loss + WEIGHT x value loss of a mini-batch."""
    tokens, turns = sum(s.response_tokens for s in samples), sum(len(s.spans) for s in samples)
    loss = torch.zeros(())
    for sample, before in zip(samples, old, strict=True):
        logprobs, values = by_hand(model, head, sample.token_ids)
        for span in sample.spans:
            place = slice(span.start - 1, span.stop - 1)
            sampled = (logprobs[place].detach() + 4.0).exp()  # of the sampler each had probability e^-4
            ratio = (logprobs[place] - before[place]).exp() * sampled.clamp(max=1.0)
            clipped = ratio.clamp(0.8, 1.2)
            policy = torch.minimum(ratio * span.advantage, clipped * span.advantage)
            value = values[span.start - 1]
            near = value.clamp(span.value - 0.2, span.value + 0.2)
            fit = torch.maximum((value - span.value_target) ** 2, (near - span.value_target) ** 2)
            loss = loss - policy.sum() / tokens + WEIGHT * 0.5 * fit / turns
    return loss


@pytest.mark.parametrize("pack_tokens", [31, 1000])
def test_gradients_are_those_of_one_loss(folder: str, pack_tokens: int) -> None:
    module = built(folder)
    samples = module.score(episodes(7), 1.0).samples
    model, head = plain(module, folder), module.policy.value_head
    old = [by_hand(model, head, sample.token_ids)[0].detach() for sample in samples]
    moved(module)
    (batch,) = make_minibatches(samples, 1, pack_tokens, seed=0)
    assert (len(batch.packs) > 1) == (pack_tokens == 31)
    found, _ = gradients_of(module, batch)
    model = plain(module, folder)
    module.zero_grad()
    loss_by_hand(model, head, samples, old).backward()
    wanted = {f"policy.model.{name}": weight.grad for name, weight in model.named_parameters()}
    wanted |= {f"policy.value_head.{name}": weight.grad for name, weight in head.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)


def test_policy_and_head_are_clipped_as_one(folder: str) -> None:
    module = built(folder, gradient_clip_norm=0.01)
    (batch,) = make_minibatches(module.score(episodes(5), 1.0).samples, 1, 1000, seed=0)
    found, logged = gradients_of(module, batch)
    assert torch.stack([g.norm() for g in found.values()]).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert "train/gradient_norm_value" not in logged
    assert logged["train/gradient_norm_policy"] > 0.01
    assert logged["train/value_loss"] > 0


def test_the_head_has_a_learning_rate_of_its_own(folder: str) -> None:
    module = built(folder, learning_rate=0.5, value_learning_rate=0.25, warmup_steps=1)
    first, second = module.configure_optimizers()["optimizer"].param_groups
    assert [(g["name"], g["lr"]) for g in (first, second)] == [("policy", 0.5), ("value", 0.25)]
    assert {id(w) for w in second["params"]} == {id(w) for w in module.policy.value_head.parameters()}
    assert {id(w) for w in first["params"]} == {id(w) for w in module.policy.model.parameters()}


def test_the_engine_never_sees_the_head(folder: str) -> None:
    shared, own = built(folder), built(folder, value_network="own")
    assert [name for name, _ in shared.engine_weights()] == [name for name, _ in own.engine_weights()]


def test_an_objective_without_values_has_no_head(folder: str) -> None:
    module = built(folder, objective=GRPO())
    assert not isinstance(module.policy, PolicyValueNetwork)
    assert module.value is None


def test_both_kinds_start_from_the_same_values(folder: str) -> None:
    shared, own = built(folder, objective=TokenValuePPO()), built(folder, value_network="own")
    assert isinstance(own.value, ValueNetwork)
    assert torch.equal(shared.policy.value_head.weight, own.value.head.weight)


def test_a_checkpoint_says_where_its_values_come_from(folder: str) -> None:
    states = {kind: built(folder, value_network=kind) for kind in ("own", "shared")}
    for writes, reads in (("own", "shared"), ("shared", "own")):
        checkpoint = {"state_dict": states[writes].state_dict()}
        with pytest.raises(CheckpointError, match=rf"value_network={writes}, this one has {reads}"):
            states[reads].on_load_checkpoint(checkpoint)
        states[writes].on_load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=r"a value network, which model\.objective=GRPO"):
        built(folder, objective=GRPO()).on_load_checkpoint({"state_dict": states["shared"].state_dict()})
    assert PPO().value_level == "turn"
