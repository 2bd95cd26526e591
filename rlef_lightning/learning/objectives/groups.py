"""Episodes -> groups of one problem -> one advantage an episode, without a value network.

What GRPO and RLOO share; each says itself how an episode's return is compared with its group's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rlef_lightning.learning.advantages import TurnLogprobs, group_members
from rlef_lightning.learning.objectives.base import Objective, TurnValues
from rlef_lightning.types import ActionLevel, Episode, ScoredEpisode


@dataclass(frozen=True, kw_only=True)
class GroupObjective(Objective):
    """An objective whose baseline is the other episodes of the same problem."""

    value_level: ClassVar[ActionLevel | None] = None

    @property
    def needs_groups(self) -> bool:
        """Always: one episode alone has nothing to be compared with."""
        return True

    @abstractmethod
    def compare(self, groups: Sequence[Sequence[float]]) -> list[list[float]]:
        """Returns of each group's episodes -> their advantages, in the same order; 0 for one alone."""

    def score(
        self,
        episodes: Sequence[Episode],
        policy_logprobs: Sequence[TurnLogprobs],
        reference_logprobs: Sequence[TurnLogprobs],
        values: Sequence[TurnValues],
    ) -> list[ScoredEpisode]:
        """One advantage for all turns of an episode; `values` is not looked at."""
        scored = self._without_values(episodes, policy_logprobs, reference_logprobs)
        members = group_members(scored)
        compared = self.compare([[scored[i].episode_return for i in group] for group in members])
        advantages: dict[int, float] = {}
        for group, found in zip(members, compared, strict=True):
            advantages |= zip(group, found, strict=True)
        return [
            replace(episode, advantages=(advantages[i],) * len(episode.advantages))
            for i, episode in enumerate(scored)
        ]
