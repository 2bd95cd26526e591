"""An update has one loss and one gradient, however its sequences are laid out: packed, one by one, padded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from rlef_lightning.learning.minibatches import MiniBatch, make_minibatches
from rlef_lightning.learning.objectives import PPO
from rlef_lightning.types import TrainingSample
from tools.bench.updates import PaddedTrainer, Turns, loose_module, padded_batches, sample

VOCABULARY = 61
DIALOGUES = ((9, (4,), 0), (3, (2, 5), 3), (12, (6, 1, 3), 2), (1, (7,), 0), (5, (3, 3), 1))
"""Tokens of prompt, responses, and feedback between them."""
OBJECTIVES = {"kl-in-the-loss": PPO(kl="loss", beta=0.3, kl_estimator="k3"), "the-papers": PPO()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    path: Path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def samples() -> list[TrainingSample]:
    """Old log-probabilities are scattered around those of the model, so that some ratios are clipped."""
    draw = Random(5)

    def near(count: int) -> tuple[float, ...]:
        return tuple(draw.gauss(-4.0, 0.5) for _ in range(count))

    found = []
    for prompt, responses, feedback in DIALOGUES:
        one = sample(Turns(prompt=prompt, responses=responses, feedback=feedback), VOCABULARY, draw)
        count = one.response_tokens
        found.append(
            replace(
                one,
                behaviour_logprobs=near(count),
                policy_logprobs=near(count),
                reference_logprobs=near(count),
            )
        )
    return found


def laid_out(samples: list[TrainingSample], pack_tokens: int) -> MiniBatch:
    (batch,) = make_minibatches(samples, 1, pack_tokens, seed=0)
    return batch


def of_packs(module: Any, batch: MiniBatch) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients, as `training_step` adds them up."""
    module.zero_grad()
    losses = {"policy_loss": 0.0, "value_loss": 0.0}
    for pack in batch.packs:
        numbers = module._backward(pack, batch, counts=True)
        losses = {name: loss + float(numbers[name]) for name, loss in losses.items()}
    return losses, {name: weight.grad.clone() for name, weight in module.named_parameters()}


def of_padded(module: Any, folder: str, batch: MiniBatch, samples: list[TrainingSample], rows: int) -> Any:
    """The same by transformers' own attention and logits, under the names of the module's weights."""
    trainer = PaddedTrainer(folder, module.objective)
    trainer.head.load_state_dict(module.value.head.state_dict())
    losses = trainer.backward(padded_batches(samples, rows), batch)
    parts = {"policy.model": trainer.policy, "value.backbone": trainer.backbone, "value.head": trainer.head}
    gradients = {
        f"{place}.{name}": weight.grad
        for place, part in parts.items()
        for name, weight in part.named_parameters()
    }
    return dict(zip(("policy_loss", "value_loss"), losses, strict=True)), gradients


@pytest.mark.parametrize("name", OBJECTIVES)
def test_packed_is_one_by_one_is_padded(folder: str, samples: list[TrainingSample], name: str) -> None:
    module: Any = loose_module(folder, objective=OBJECTIVES[name], pack_tokens=256)
    together, alone = laid_out(samples, 256), [laid_out([one], 256) for one in samples]
    assert [len(pack.cu_seqlens) - 1 for pack in together.packs] == [len(samples)]
    singly = replace(together, packs=tuple(one.packs[0] for one in alone))
    losses, gradients = of_packs(module, together)
    assert losses["value_loss"] > 0.1
    assert min(gradient.abs().max() for gradient in gradients.values()) > 1e-4
    others = (
        of_packs(module, singly),
        of_padded(module, folder, together, samples, rows=len(samples)),
        of_padded(module, folder, together, samples, rows=2),
    )
    for other_losses, other_gradients in others:
        assert other_losses == pytest.approx(losses, abs=1e-5)
        assert other_gradients.keys() == gradients.keys()
        for weight, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[weight], gradient, rtol=1e-5, atol=1e-5)


def test_the_kl_is_part_of_what_was_compared(folder: str, samples: list[TrainingSample]) -> None:
    with_kl, without = (
        of_packs(loose_module(folder, objective=objective, pack_tokens=256), laid_out(samples, 256))[0]
        for objective in OBJECTIVES.values()
    )
    assert abs(with_kl["policy_loss"] - without["policy_loss"]) > 0.01
