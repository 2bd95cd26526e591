"""TrainingSamples -> MiniBatches: what one optimizer step works on, packed.

One pass over the collection, as in the paper (RLEF, sec. 3: 1024 rollouts, 4 updates of 256).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

import torch

from rlef_lightning.errors import ConfigError
from rlef_lightning.learning.packing import PackedBatch, collate, pack
from rlef_lightning.types import TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniBatch:
    """The packs of one optimizer step of this rank, and the counts that their losses are divided by."""

    packs: tuple[PackedBatch, ...]
    response_tokens: int
    """Response tokens of all packs."""
    turns: int
    """Turns of all packs; with a value before each token, response tokens."""
    temperature: float
    """At which the responses were sampled; log-probabilities are those of the tempered distribution."""

    def to(self, device: torch.device | str) -> MiniBatch:
        """The same mini-batch with its tensors on `device`."""
        return replace(self, packs=tuple(pack.to(device) for pack in self.packs))


def make_minibatches(
    samples: Sequence[TrainingSample], count: int, pack_tokens: int, seed: int, temperature: float = 1.0
) -> list[MiniBatch]:
    """Shuffle by the seed, split into `count` parts that differ by at most one sample, and pack each.

    Raises:
        ConfigError: fewer samples than mini-batches, or a sample longer than `pack_tokens`.
    """
    if len(samples) < count:
        raise ConfigError(
            f"{len(samples)} episodes cannot be split into {count} mini-batches: lower "
            "data.minibatches_per_epoch or raise data.problems_per_epoch"
        )
    order = list(range(len(samples)))
    Random(seed).shuffle(order)
    bounds = [len(order) * part // count for part in range(count + 1)]
    parts = [order[start:stop] for start, stop in pairwise(bounds)]
    return [_minibatch([samples[i] for i in part], pack_tokens, temperature) for part in parts]


def _minibatch(samples: list[TrainingSample], pack_tokens: int, temperature: float) -> MiniBatch:
    try:
        members = pack(samples, pack_tokens)
    except ValueError as error:
        raise ConfigError(f"{error} (model.pack_tokens)") from error
    return MiniBatch(
        packs=tuple(collate([samples[i] for i in indices]) for indices in members),
        response_tokens=sum(sample.response_tokens for sample in samples),
        turns=sum(len(sample.spans) for sample in samples),
        temperature=temperature,
    )
