"""Episodes of one problem, standardised among themselves -> an advantage each: GRPO (arXiv 2402.03300).

The source's KL in the loss (`kl: loss`, `kl_estimator: k3`) is an option, and the loss is a mean over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlef_lightning.learning.advantages import moments, normalise
from rlef_lightning.learning.objectives.groups import GroupObjective


@dataclass(frozen=True, kw_only=True)
class GRPO(GroupObjective):
    """A_e = (G_e - mean of the group) / deviation, G_e being the sum of all rewards of episode e."""

    divide_by: Literal["group", "batch", "none"] = "group"
    """The deviation of the group's returns (the source), that of G - mean over the whole batch, or none
    (arXiv 2503.20783), so that problems that are nearly always or never solved are not given more weight."""

    def compare(self, groups: Sequence[Sequence[float]]) -> list[list[float]]:
        """Zeros where the episodes of a group have equal returns."""
        if self.divide_by == "group":
            return [list(normalise(returns, moments(returns))) for returns in groups]
        centred = [[value - moments(returns).mean for value in returns] for returns in groups]
        if self.divide_by == "none":
            return centred
        over = moments([value for group in centred for value in group])
        return [list(normalise(group, over)) for group in centred]
