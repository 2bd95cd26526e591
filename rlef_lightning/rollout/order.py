"""Problems of a split + epoch -> the problems of that epoch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random

from rlef_lightning.rollout.play import derive_seed
from rlef_lightning.types import Problem


def epoch_problems(problems: Sequence[Problem], epoch: int, count: int, seed: int) -> list[Problem]:
    """`count` problems: one long walk through shuffled passes over the split, cut into epochs."""
    first = epoch * count
    chosen = []
    for place in range(first, first + count):
        lap, index = divmod(place, len(problems))
        chosen.append(problems[_shuffled(len(problems), derive_seed(seed, "order", lap))[index]])
    return chosen


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int) -> tuple[int, ...]:
    order = list(range(count))
    Random(seed).shuffle(order)
    return tuple(order)
