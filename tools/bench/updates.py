"""Lengths of dialogues -> samples, a module that trains without a trainer, and the same on padded batches.

What the benchmark of training is put together from. It measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from rlef_lightning.learning.minibatches import MiniBatch
from rlef_lightning.learning.objectives import PPO, Objective
from rlef_lightning.learning.packing import PackedBatch, collate
from rlef_lightning.module import RLEFModule
from rlef_lightning.types import TrainingSample, TurnSpan

MICRO_LENGTHS = (56, 88, 123, 130, 137, 160, 184, 201, 265)
"""Tokens of 256 episodes of the tiny model on the micro problems: 8 equal parts lie between these."""
MICRO_RESPONSES = 0.4
"""Share of their tokens that are responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Tokens of one dialogue.

    Example: Turns(prompt=100, responses=(60, 50), feedback=25)
    """

    prompt: int
    responses: tuple[int, ...]
    feedback: int
    """Between two responses."""


def contest_turns(draw: Random, scale: float) -> Turns:
    """A dialogue about a CodeContests problem, `scale` times as long.

    Prompts and responses are log-normal, fitted to 171 statements (medians 450 tokens, spread 0.37) and their
    Python solutions (260, 0.74; at most 2048) at 4 and 3 characters a token; feedback is 100 tokens. 35% of
    the dialogues have one turn, 15% two, 50% three, about as with 8B models (RLEF, sec. 3).
    """
    turns = draw.choices((1, 2, 3), (0.35, 0.15, 0.5))[0]
    responses = [260 * math.exp(draw.gauss(0, 0.74)) for _ in range(turns)]
    return Turns(
        prompt=round(scale * min(4096.0, 450 * math.exp(draw.gauss(0, 0.37)))),
        responses=tuple(max(2, round(scale * min(2048.0, length))) for length in responses),
        feedback=round(scale * 100),
    )


def micro_turns(draw: Random) -> Turns:
    """A dialogue about a micro problem: total length as measured, one response for every 100 tokens."""
    part = draw.randrange(len(MICRO_LENGTHS) - 1)
    length = round(draw.uniform(MICRO_LENGTHS[part], MICRO_LENGTHS[part + 1]))
    turns = min(3, 1 + length // 100)
    response, feedback = round(MICRO_RESPONSES * length / turns), 20
    prompt = length - turns * response - (turns - 1) * feedback
    return Turns(prompt=prompt, responses=(response,) * turns, feedback=feedback)


def sample(turns: Turns, vocabulary: int, draw: Random) -> TrainingSample:
    """Random tokens in these turns, with advantages and targets as training has them."""
    spans, at = [], turns.prompt
    for response in turns.responses:
        advantage, target = draw.gauss(0.0, 1.0), draw.choice((-1.0, 1.0))
        spans.append(
            TurnSpan(start=at, stop=at + response, advantage=advantage, value=0.1, value_target=target)
        )
        at += response + turns.feedback
    logprobs = (-math.log(vocabulary),) * sum(turns.responses)
    return TrainingSample(
        token_ids=tuple(draw.randrange(vocabulary) for _ in range(spans[-1].stop)),
        spans=tuple(spans),
        behaviour_logprobs=logprobs,
        policy_logprobs=logprobs,
    )


def loose_module(folder: str, *, mesh: Any = None, **options: Any) -> RLEFModule:
    """A module that trains without a Trainer: `training_step(batch, 0)` is one optimizer step.

    Args:
        folder: Hugging Face folder.
        mesh: As Lightning's strategy makes it; None: not sharded.
        options: Of RLEFModule.
    """
    module: Any = RLEFModule(folder, learning_rate=1e-5, warmup_steps=1, **options)
    module._device_mesh = mesh
    module._trainer = SimpleNamespace(is_last_batch=False, state=SimpleNamespace(fn="fit"))
    module.configure_model()
    # The reference has no part in an update.
    module._frozen = ()
    made = module.configure_optimizers()
    module.optimizers = lambda: made["optimizer"]
    module.lr_schedulers = lambda: made["lr_scheduler"]
    module.manual_backward = lambda loss: loss.backward()
    return module


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Rows of one length, and the places in them that the losses read."""

    token_ids: Tensor
    """[N, L], zeros on the right."""
    mask: Tensor
    """[N, L] int64, 1 for tokens."""
    response_places: tuple[Tensor, Tensor]
    """Row and column of what predicts each response token."""
    value_places: tuple[Tensor, Tensor]
    packed: PackedBatch
    """The same sequences with the numbers of the losses."""


def padded_batches(samples: Sequence[TrainingSample], rows: int) -> list[PaddedBatch]:
    """Batches of so many samples in their order, each padded to its longest."""
    return [_padded(samples[first : first + rows]) for first in range(0, len(samples), rows)]


def _padded(samples: Sequence[TrainingSample]) -> PaddedBatch:
    packed = collate(samples)
    lengths = packed.cu_seqlens.diff()
    mask = torch.arange(packed.max_seqlen)[None] < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = packed.token_ids

    def places(index: Tensor) -> tuple[Tensor, Tensor]:
        row = torch.searchsorted(packed.cu_seqlens[1:].long(), index, right=True)
        return row, packed.position_ids[index]

    where = places(packed.response_index), places(packed.value_index)
    return PaddedBatch(ids, mask.long(), *where, packed)


class PaddedTrainer:
    """Policy and value network as transformers loads them, trained on padded batches.

    As Hugging Face's Trainer does it: SDPA attention under a mask, logits of every place; losses, AdamW and
    clipping are those of RLEFModule. Without the Trainer's own overhead.
    """

    def __init__(self, folder: str, objective: Objective = PPO()) -> None:  # noqa: B008 (frozen)
        from transformers import AutoModel, AutoModelForCausalLM

        options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
        self.policy = AutoModelForCausalLM.from_pretrained(folder, **options)
        self.backbone = AutoModel.from_pretrained(folder, **options)
        self.head = nn.Linear(self.backbone.config.hidden_size, 1)
        self.value = nn.ModuleList([self.backbone, self.head])
        trained = [*self.policy.parameters(), *self.value.parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.1, fused=True)
        self.objective = objective

    def step(self, batches: Sequence[PaddedBatch], whole: MiniBatch) -> None:
        """One optimizer step on a mini-batch; `whole` has its counts."""
        self.optimizer.zero_grad()
        self.backward(batches, whole)
        for network in (self.policy, self.value):
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.optimizer.step()

    def backward(self, batches: Sequence[PaddedBatch], whole: MiniBatch) -> tuple[float, float]:
        """Adds the gradients of a mini-batch; the losses of policy and value."""
        policy_loss = value_loss = torch.zeros(())
        for batch in batches:
            inputs = {"input_ids": batch.token_ids, "attention_mask": batch.mask, "use_cache": False}
            logits = self.policy(**inputs).logits[:, :-1]
            every = torch.log_softmax(logits.float(), -1)
            chosen = every.gather(-1, batch.token_ids[:, 1:, None]).squeeze(-1)
            logprobs, packed = chosen[batch.response_places], batch.packed
            mask = torch.ones_like(packed.target_ids, dtype=torch.bool)
            policy = self.objective.policy_loss(logprobs, packed, mask, whole.response_tokens).loss
            policy.backward()
            values = self.head(self.backbone(**inputs).last_hidden_state).squeeze(-1)[batch.value_places]
            mask = torch.ones_like(packed.value_index, dtype=torch.bool)
            value = self.objective.value_loss(values, packed, mask, whole.turns).loss
            value.backward()
            policy_loss, value_loss = policy_loss + policy.detach(), value_loss + value.detach()
        return float(policy_loss), float(value_loss)
