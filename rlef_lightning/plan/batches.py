"""The config's counts -> how problems become optimizer steps, and how long the sequences are taken to be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlef_lightning.learning.minibatches import balanced
from rlef_lightning.learning.packing import pack
from rlef_lightning.learning.samples import TokenSequence
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
    """Passes of each rank through each network for the largest mini-batch, of sequences of the mean length:
    the packs of the rank that has the most, with which the others keep step."""
    packs_for_scoring: int
    """Passes of each rank for an epoch's scoring, likewise."""
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
        packs_per_rank=_packs_per_rank(asked, lengths),
        packs_for_scoring=math.ceil(
            len(pack(_alike(asked, lengths, asked.episodes), asked.pack_tokens)) / asked.ranks
        ),
        steps_per_epoch=asked.minibatches,
        epochs=epochs,
        steps=None if epochs is None else epochs * asked.minibatches,
    )


def _packs_per_rank(asked: Asked, lengths: Lengths) -> int:
    """As make_minibatches divides and packs; of its mini-batches the largest has a rounded up number."""
    sequences = _alike(asked, lengths, math.ceil(asked.episodes / asked.minibatches))
    shares = balanced([len(one.token_ids) for one in sequences], asked.ranks)
    return max(len(pack([sequences[i] for i in share], asked.pack_tokens)) for share in shares)


def _packs_for_scoring(asked: Asked, lengths: Lengths) -> int:
    """Of the packs of all episodes each rank takes every so-many-th."""
    packs = pack(_alike(asked, lengths, asked.episodes), asked.pack_tokens)
    return math.ceil(len(packs) / asked.ranks)


def _alike(asked: Asked, lengths: Lengths, count: int) -> list[TokenSequence]:
    """So many of the mean length. A longer one than a pack is refused elsewhere; here it fills one."""
    tokens = min(math.ceil(lengths.sequence), asked.pack_tokens)
    return [TokenSequence(token_ids=(0,) * tokens, spans=())] * count
