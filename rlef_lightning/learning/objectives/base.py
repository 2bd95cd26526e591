"""Episodes, log-probabilities, values -> advantages; a pack -> its losses: what every objective shares.

An objective is a frozen set of numbers with the hooks `score`, `policy_loss` and, where it has a value
network, `value_loss`; the arithmetic is in advantages.py, gae.py and losses.py. It runs no network. Options
that several objectives have mean the same and have one default, so that a configuration that changes the
class alone changes nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from torch import Tensor

from rlef_lightning.errors import ConfigError
from rlef_lightning.learning.advantages import TurnLogprobs, score_episodes
from rlef_lightning.learning.kl import Estimator
from rlef_lightning.learning.losses import Correction, PolicyLoss, ValueLoss, kl_loss, policy_loss
from rlef_lightning.learning.packing import PackedBatch
from rlef_lightning.learning.rewards import RewardConfig
from rlef_lightning.types import ActionLevel, Episode, ScoredEpisode

TurnValues = Sequence[Sequence[float]]
"""Values of one episode: `[t]` holds one number, one for each token of response t, or none."""


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """What every objective has: rewards, KL to the initial policy, clipping, correction for the sampler."""

    value_level: ClassVar[ActionLevel | None]
    """Where a value network is read: at each turn's prompt, before each token; None: there is none."""
    action_level: ClassVar[ActionLevel] = "turn"
    """What an advantage belongs to."""

    beta: float = 0.05
    """Weight of the KL to the initial policy."""
    kl: Literal["reward", "loss"] = "reward"
    """"reward": R_t = r_t - beta * mean of the response's KL terms (RLEF, sec. 2.2); "loss": beta * mean over
    tokens is added to the policy loss (GRPO)."""
    kl_estimator: Estimator = "k1"
    """The term of a token, with d = log(policy / reference): k1 d (the paper's), k2 d^2 / 2, k3 e^-d - 1 + d.
    In the loss k2 or k3: the gradient of k1 is 0 on average."""
    clip_epsilon: float = 0.2
    """The policy ratio counts within 1 - eps and 1 + eps."""
    clip_epsilon_high: float | None = None
    """The upper eps (clip-higher, arXiv 2503.14476: 0.28); null: as the lower one."""
    dual_clip: float | None = None
    """Above 1 (arXiv 1912.09729: 3): where A < 0 a token's term is at least this times A; null: unbounded."""
    correction: Correction = "ratio"
    """For a sampler that is not the trained policy. "ratio": min(policy / behaviour, cap) inside the clipped
    ratio (RLEF, sec. 2.2); "weight": min(old / behaviour, cap) times the clipped term (truncated importance
    sampling); "none"."""
    correction_cap: float = 1.0
    """Largest correction; the paper's is 1, truncated importance sampling often has 2."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """The task reward of each turn."""

    def __post_init__(self) -> None:
        if self.kl == "loss" and self.kl_estimator == "k1":
            raise ConfigError(
                "objective.kl is loss with kl_estimator k1, whose gradient is 0 on average: set "
                "kl_estimator to k3 (or k2), or kl to reward"
            )
        lowest = {"beta": 0.0, "clip_epsilon": 0.0, "clip_epsilon_high": 0.0, "dual_clip": 1.0}
        for name, bound in {**lowest, "correction_cap": 0.0}.items():
            value = getattr(self, name)
            if value is not None and (value < bound or (value == bound and name != "beta")):
                at_least = "at least" if name == "beta" else "above"
                raise ConfigError(f"objective.{name} is {value}; it must be {at_least} {bound:g}")

    @property
    def needs_groups(self) -> bool:
        """True when an episode is compared with others of the same problem."""
        return False

    @property
    def reward_beta(self) -> float:
        """Weight of the KL inside the reward."""
        return self.beta if self.kl == "reward" else 0.0

    @abstractmethod
    def score(
        self,
        episodes: Sequence[Episode],
        policy_logprobs: Sequence[TurnLogprobs],
        reference_logprobs: Sequence[TurnLogprobs],
        values: Sequence[TurnValues],
    ) -> list[ScoredEpisode]:
        """Rewards, returns and advantages of one batch: `[e][t]` is turn t of episode e.

        Raises ValueError when counts of episodes, turns, tokens or values differ.
        """

    def _without_values(
        self,
        episodes: Sequence[Episode],
        policy_logprobs: Sequence[TurnLogprobs],
        reference_logprobs: Sequence[TurnLogprobs],
    ) -> list[ScoredEpisode]:
        """Turn by turn as if every value were 0, not normalised."""
        return score_episodes(
            episodes,
            policy_logprobs,
            reference_logprobs,
            [[0.0] * len(episode.turns) for episode in episodes],
            rewards=self.rewards,
            beta=self.reward_beta,
            normalisation="none",
            kl_estimator=self.kl_estimator,
        )

    def policy_loss(
        self, logprobs: Tensor, packed: PackedBatch, mask: Tensor, total_tokens: float
    ) -> PolicyLoss:
        """A pack's share of the policy loss.

        Shapes: logprobs [R] with gradient, mask [R] (True: the token counts). `total_tokens` counts the
        tokens that count in all packs of the mini-batch. Raises ValueError when shapes differ.
        """
        found = policy_loss(
            logprobs,
            packed.policy_logprobs,
            packed.behaviour_logprobs,
            packed.advantages[packed.turn_of_token],
            mask,
            total_tokens=total_tokens,
            clip_epsilon=self.clip_epsilon,
            clip_epsilon_high=self.clip_epsilon_high,
            dual_clip=self.dual_clip,
            correction=self.correction,
            correction_cap=self.correction_cap,
        )
        if self.kl == "reward":
            return found
        divergence = kl_loss(
            logprobs,
            packed.reference_logprobs,
            mask,
            total_tokens=total_tokens,
            estimator=self.kl_estimator,
        )
        return replace(found, loss=found.loss + self.beta * divergence, kl=divergence.detach())

    def value_loss(self, values: Tensor, packed: PackedBatch, mask: Tensor, total_turns: float) -> ValueLoss:
        """A pack's share of the value loss.

        Shapes: values [M] with gradient, mask [M]. Raises ValueError when shapes differ, or the objective has
        no `value_level`: those with one say here what their loss is.
        """
        raise ValueError(f"{type(self).__name__} has no value network")
