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
    """Response tokens of all packs of all ranks."""
    turns: int
    """Turns of all packs of all ranks; with a value before each token, response tokens."""
    temperature: float
    """At which the responses were sampled; log-probabilities are those of the tempered distribution."""
    fillers: int = 0
    """The last so many packs do not count: ranks that share their weights must all take as many passes."""

    def to(self, device: torch.device | str) -> MiniBatch:
        """The same mini-batch with its tensors on `device`."""
        return replace(self, packs=tuple(pack.to(device) for pack in self.packs))


def make_minibatches(
    samples: Sequence[TrainingSample],
    count: int,
    pack_tokens: int,
    seed: int,
    temperature: float = 1.0,
    rank: int = 0,
    ranks: int = 1,
) -> list[MiniBatch]:
    """Shuffle by the seed, split into `count` parts that differ by at most one sample, and pack each.

    With several ranks `samples` are those of all of them, the same on each; a part is divided among them by
    tokens, and this rank's share is packed. So a mini-batch holds the same samples on any number of ranks.

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
    return [
        _minibatch([samples[i] for i in part], pack_tokens, temperature, rank=rank, ranks=ranks)
        for part in parts
    ]


def balanced(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Which items (by index) go to which of the parts, so that their sizes add up to nearly the same.

    The largest item that is left goes to the smallest part so far; within a part, ascending index.
    """
    shares: list[list[int]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = min(range(parts), key=lambda part: (totals[part], part))
        shares[place].append(index)
        totals[place] += sizes[index]
    return [sorted(share) for share in shares]


def _minibatch(
    samples: list[TrainingSample], pack_tokens: int, temperature: float, *, rank: int, ranks: int
) -> MiniBatch:
    packs, fillers = _packs(samples, pack_tokens, rank, ranks)
    return MiniBatch(
        packs=tuple(collate(members) for members in packs),
        response_tokens=sum(sample.response_tokens for sample in samples),
        turns=sum(len(sample.spans) for sample in samples),
        temperature=temperature,
        fillers=fillers,
    )


def _packs(
    samples: list[TrainingSample], pack_tokens: int, rank: int, ranks: int
) -> tuple[list[list[TrainingSample]], int]:
    """This rank's packs, and how many of the last ones are there to keep up with the other ranks."""
    shares = balanced([len(sample.token_ids) for sample in samples], ranks)
    try:
        packs = [_pack_share([samples[i] for i in share], pack_tokens) for share in shares]
    except ValueError as error:
        raise ConfigError(f"{error} (model.pack_tokens)") from error
    fillers = max(map(len, packs)) - len(packs[rank])
    shortest = min(samples, key=lambda sample: len(sample.token_ids))
    return packs[rank] + [[shortest]] * fillers, fillers


def _pack_share(share: list[TrainingSample], pack_tokens: int) -> list[list[TrainingSample]]:
    return [[share[i] for i in members] for members in pack(share, pack_tokens)]
