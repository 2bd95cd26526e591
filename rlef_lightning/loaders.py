"""Items that are at hand, or played when asked for -> a DataLoader that Lightning takes as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from rlef_lightning.evaluation import Evaluated


class Played(Dataset[Evaluated]):
    """A data set of one evaluation."""

    def __init__(self, play: Callable[[], Evaluated]) -> None:
        self._play = play

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Evaluated:
        if index != 0:
            raise IndexError(index)
        return self._play()


def loader(items: list[Any] | Dataset[Any]) -> DataLoader[Any]:
    """A sized loader of this rank's items: Lightning would fetch one item ahead of an unsized one.

    The items must not be divided among the ranks once more. Lightning leaves a loader alone that has a
    distributed sampler; this one has one replica.
    """
    sampler: DistributedSampler[Any] = DistributedSampler(items, num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
    return DataLoader(items, batch_size=None, sampler=sampler)  # type: ignore[arg-type]
