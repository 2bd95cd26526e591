"""The config's counts -> how problems become optimizer steps, and how long the sequences are taken to be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlef_lightning.plan.asked import Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Means over episodes, in tokens and turns; nobody knows them before a run.

    Example: Lengths(prompt=700, response=400, feedback=150, turns=2.4)
    """

    prompt: float
    response: float
    feedback: float
    turns: float

    @property
    def sequence(self) -> float:
        """Tokens of an episode, which is one sequence."""
        return self.prompt + self.turns * self.response + (self.turns - 1) * self.feedback

    @property
    def sampled(self) -> float:
        """Tokens of an episode that the engine samples."""
        return self.turns * self.response


def longest(asked: Asked) -> Lengths:
    """What can be assumed without measurement: responses of half the limit, most turns used."""
    turns = 1 + 0.8 * (asked.play.turn_limit - 1)
    response = asked.play.sampling.max_response_tokens / 2
    room = max(1.0, asked.max_context_tokens - turns * asked.play.sampling.max_response_tokens)
    return Lengths(prompt=0.6 * room, response=response, feedback=0.3 * room / max(1.0, turns), turns=turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """From problems to optimizer steps."""

    episodes: int
    """Of an epoch: problems x samples."""
    most_responses: int
    """Of an epoch: episodes x turn limit."""
    sequences_per_step: float
    """Episodes of one mini-batch, over all ranks."""
    sequences_per_rank: float
    packs_per_rank: int
    """Passes of a rank through each network for one mini-batch, at the assumed lengths."""
    steps_per_epoch: int
    epochs: int | None
    steps: int | None
    """Optimizer steps of the run."""


def batches(asked: Asked, lengths: Lengths) -> Batches:
    """The arithmetic of an epoch and of the run."""
    per_step = asked.episodes / asked.minibatches
    per_rank = per_step / asked.ranks
    epochs = asked.max_epochs if asked.max_epochs is not None and asked.max_epochs > 0 else None
    return Batches(
        episodes=asked.episodes,
        most_responses=asked.episodes * asked.play.turn_limit,
        sequences_per_step=per_step,
        sequences_per_rank=per_rank,
        packs_per_rank=max(1, math.ceil(per_rank * lengths.sequence / asked.pack_tokens)),
        steps_per_epoch=asked.minibatches,
        epochs=epochs,
        steps=None if epochs is None else epochs * asked.minibatches,
    )
