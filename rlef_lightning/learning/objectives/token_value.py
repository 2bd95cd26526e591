"""Token-level values -> GAE over response tokens: the ablation of the turn-level value (RLEF, sec. 3).

Every response token is an action with a value of its own. Prompts and feedback are no actions: the value
after a turn's last token is that of the next turn's first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar

import torch

from rlef_lightning.errors import ConfigError
from rlef_lightning.learning.advantages import TurnLogprobs, check_counts, normalise_over
from rlef_lightning.learning.gae import gae
from rlef_lightning.learning.kl import token_kl
from rlef_lightning.learning.objectives.base import TurnValues
from rlef_lightning.learning.objectives.ppo import PPO
from rlef_lightning.types import ActionLevel, Episode, ScoredEpisode


@dataclass(frozen=True, kw_only=True)
class TokenValuePPO(PPO):
    """PPO with a value before each response token and generalised advantage estimation (arXiv 1506.02438)."""

    value_level: ClassVar[ActionLevel | None] = "token"
    action_level: ClassVar[ActionLevel] = "token"

    gae_lambda: float = 0.95
    """1: Monte Carlo, as with the turn-level value; 0: the next value alone. The paper does not state it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gae_lambda <= 1:
            raise ConfigError(f"objective.gae_lambda is {self.gae_lambda}; it must lie between 0 and 1")

    def score(
        self,
        episodes: Sequence[Episode],
        policy_logprobs: Sequence[TurnLogprobs],
        reference_logprobs: Sequence[TurnLogprobs],
        values: Sequence[TurnValues],
    ) -> list[ScoredEpisode]:
        """Advantages and returns of response tokens; `values[e][t]` holds one number for each."""
        check_counts("episodes", len(episodes), values)
        parts = zip(
            self._without_values(episodes, policy_logprobs, reference_logprobs),
            policy_logprobs,
            reference_logprobs,
            values,
            strict=True,
        )
        return normalise_over([self._tokens(*part) for part in parts], self.normalisation)

    def _tokens(
        self, scored: ScoredEpisode, policy: TurnLogprobs, reference: TurnLogprobs, values: TurnValues
    ) -> ScoredEpisode:
        check_counts(f"turns of problem {scored.episode.problem_id!r}", len(policy), values)
        rewards: list[float] = []
        for reward, *logprobs in zip(scored.turn_rewards, policy, reference, strict=True):
            rewards += self._turn(reward, *logprobs)
        before = tuple(chain.from_iterable(values))
        advantages = gae(
            torch.tensor(rewards, dtype=torch.float64),
            torch.tensor(before, dtype=torch.float64),
            self.gae_lambda,
        ).tolist()
        returns = tuple(a + v for a, v in zip(advantages, before, strict=True))
        return replace(scored, advantages=tuple(advantages), values=before, returns=returns)

    def _turn(self, reward: float, policy: Sequence[float], reference: Sequence[float]) -> list[float]:
        """The response's KL, shared out so that the tokens' sum is the turn's; r_t at the last token."""
        if not policy:
            raise ValueError("a response without tokens: nothing can take its reward")
        terms = token_kl(policy, reference, self.kl_estimator)
        rewards = [-self.reward_beta * term / len(terms) for term in terms]
        return [*rewards[:-1], rewards[-1] + reward]
