"""Episodes of one problem -> each one's return less the mean of the others': RLOO (arXiv 2402.14740)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from rlef_lightning.learning.objectives.groups import GroupObjective


@dataclass(frozen=True, kw_only=True)
class RLOO(GroupObjective):
    """A_e = G_e - mean over the group's other episodes of G: leave-one-out, unbiased and not normalised."""

    def compare(self, groups: Sequence[Sequence[float]]) -> list[list[float]]:
        """Zero for an episode that is alone, as after drops: without a baseline it teaches nothing."""
        return [[_advantage(value, returns) for value in returns] for returns in groups]


def _advantage(value: float, returns: Sequence[float]) -> float:
    others = len(returns) - 1
    return value - (fsum(returns) - value) / others if others else 0.0
