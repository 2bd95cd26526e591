"""Turn-level values -> Monte Carlo advantages, clipped losses: the paper's objective (RLEF, sec. 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlef_lightning.learning.advantages import Normalisation, TurnLogprobs, score_episodes
from rlef_lightning.learning.losses import ValueLoss, value_loss
from rlef_lightning.learning.objectives.base import Objective, TurnValues
from rlef_lightning.learning.packing import PackedBatch
from rlef_lightning.types import ActionLevel, Episode, ScoredEpisode


@dataclass(frozen=True, kw_only=True)
class PPO(Objective):
    """PPO with a turn-level value and the KL inside the reward: A_t = sum over i >= t of R_i - V(c_t)."""

    value_level: ClassVar[ActionLevel | None] = "turn"

    value_clip: float = 0.2
    """The value counts within this distance of its value at collection."""
    normalisation: Normalisation = "global"
    """Over what advantages get mean 0 and deviation 1: "global", the whole batch; "group", the episodes of
    one problem; "none"."""

    @property
    def needs_groups(self) -> bool:
        """True when advantages are normalised within groups."""
        return self.normalisation == "group"

    def score(
        self,
        episodes: Sequence[Episode],
        policy_logprobs: Sequence[TurnLogprobs],
        reference_logprobs: Sequence[TurnLogprobs],
        values: Sequence[TurnValues],
    ) -> list[ScoredEpisode]:
        """Advantages and returns of turns; `values[e][t]` holds one number."""
        return score_episodes(
            episodes,
            policy_logprobs,
            reference_logprobs,
            [[value for (value,) in turns] for turns in values],
            rewards=self.rewards,
            beta=self.reward_beta,
            normalisation=self.normalisation,
            kl_estimator=self.kl_estimator,
        )

    def value_loss(self, values: Tensor, packed: PackedBatch, mask: Tensor, total_turns: float) -> ValueLoss:
        """The squared error, the larger of free and clipped; shapes [M]."""
        return value_loss(
            values, packed.old_values, packed.returns, mask, total_turns=total_turns, clip=self.value_clip
        )
