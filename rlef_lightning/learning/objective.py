"""The paper's objective as one value: every number of RLEF, sec. 2.2, with its default."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlef_lightning.learning.advantages import Normalisation
from rlef_lightning.learning.rewards import RewardConfig


@dataclass(frozen=True, kw_only=True)
class PPO:
    """PPO with a turn-level value and the KL inside the reward (RLEF, sec. 2.2)."""

    beta: float = 0.05
    """Weight of the KL to the initial policy, per response: R_t = r_t - beta * mean log-ratio."""
    clip_epsilon: float = 0.2
    """The policy ratio counts within 1 - eps and 1 + eps."""
    value_clip: float = 0.2
    """The value counts within this distance of its value at collection."""
    normalisation: Normalisation = "global"
    """Over what advantages are normalised: "global", all turns of the batch; "none"."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """The task reward of each turn."""
