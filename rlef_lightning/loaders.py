"""Items -> sized dataloaders, as Lightning needs them; nothing is sampled here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset

from rlef_lightning.evaluation import Evaluated


class Played(Dataset[Evaluated]):
    """A data set of one evaluation, played when it is asked for."""

    def __init__(self, play: Callable[[], Evaluated]) -> None:
        self._play = play

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Evaluated:
        if index != 0:
            raise IndexError(index)
        return self._play()


def loader(items: list[Any] | Dataset[Any]) -> DataLoader[Any]:
    """A sized loader: Lightning would fetch one item ahead of an unsized one."""
    return DataLoader(items, batch_size=None, shuffle=False)  # type: ignore[arg-type]
