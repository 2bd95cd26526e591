"""Episodes, log-probabilities, values -> returns and advantages -> ScoredEpisode (RLEF, sec. 2.2).

One number a turn throughout; for values of tokens see gae.py. Does not lay out tokens (samples.py) and holds
no tensors: a batch has a few thousand turns, and plain floats in a fixed order give the same result on every
machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import fsum, sqrt
from typing import Literal, TypeAlias

from rlef_lightning.learning.kl import Estimator, mean_kl, mean_log_ratio
from rlef_lightning.learning.rewards import RewardConfig, turn_rewards
from rlef_lightning.types import Episode, ScoredEpisode

Normalisation: TypeAlias = Literal["global", "group", "none"]
"""Over which advantages mean and deviation are taken: the batch's, or those of one problem's episodes.
The paper does not state it."""

TurnLogprobs: TypeAlias = Sequence[Sequence[float]]
"""Natural-log probabilities of one episode: `[t][i]` is token i of response t."""

STD_FLOOR = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, mean and spread of some numbers, so that several ranks can put theirs together.

    Example: Moments(count=2, mean=1.0, squares=2.0) for the numbers 0 and 2
    """

    count: int
    mean: float
    squares: float
    """Sum of squared distances from the mean."""

    @property
    def std(self) -> float:
        """Standard deviation of the numbers themselves (divided by count, not count - 1)."""
        return sqrt(self.squares / self.count) if self.count else 0.0


def moments(values: Sequence[float]) -> Moments:
    """The moments of these numbers; of none, all zero."""
    if not values:
        return Moments(count=0, mean=0.0, squares=0.0)
    mean = fsum(values) / len(values)
    return Moments(count=len(values), mean=mean, squares=fsum((v - mean) ** 2 for v in values))


def merge_moments(parts: Iterable[Moments]) -> Moments:
    """The moments of all the parts' numbers together, as if they had been in one list."""
    parts = [part for part in parts if part.count]
    count = sum(part.count for part in parts)
    if count == 0:
        return Moments(count=0, mean=0.0, squares=0.0)
    mean = fsum(part.count * part.mean for part in parts) / count
    between = fsum(part.count * (part.mean - mean) ** 2 for part in parts)
    return Moments(count=count, mean=mean, squares=fsum(part.squares for part in parts) + between)


def turn_returns(
    rewards: Sequence[float], mean_log_ratios: Sequence[float], beta: float
) -> tuple[float, ...]:
    """Monte Carlo returns with gamma = 1: sum over i >= t of R_i, R_t = r_t - beta * mean_log_ratio_t.

    In the place of mean log-ratios stand the means of another estimator's terms where there is one.

    Source: RLEF, sec. 2.2. Raises ValueError when the two lengths differ.
    """
    if len(rewards) != len(mean_log_ratios):
        raise ValueError(
            f"{len(rewards)} rewards but {len(mean_log_ratios)} mean log-ratios; each turn needs both"
        )
    with_kl = [r - beta * kl for r, kl in zip(rewards, mean_log_ratios, strict=True)]
    return tuple(reversed(list(accumulate(reversed(with_kl)))))


def normalise(advantages: Sequence[float], over: Moments) -> tuple[float, ...]:
    """(A - mean) / (std + 1e-8); all zero where `over` has no spread.

    `over` is passed in so that it can cover more than these advantages: the turns of all ranks.
    """
    # The mean of equal numbers can be one rounding off, which 1e-8 would blow up.
    if over.std <= 1e-12 * max(1.0, abs(over.mean)):
        return (0.0,) * len(advantages)
    return tuple((a - over.mean) / (over.std + STD_FLOOR) for a in advantages)


def advantage_moments(scored: Sequence[ScoredEpisode]) -> Moments:
    """The moments of every action's advantage."""
    return moments([a for episode in scored for a in episode.advantages])


def normalise_scored(scored: Sequence[ScoredEpisode], over: Moments) -> list[ScoredEpisode]:
    """The episodes with their advantages normalised by `over`; see `normalise`."""
    return [replace(episode, advantages=normalise(episode.advantages, over)) for episode in scored]


def group_members(scored: Sequence[ScoredEpisode]) -> list[list[int]]:
    """The indices of each problem's episodes, problems in the order of their first episode."""
    members: dict[str, list[int]] = {}
    for index, episode in enumerate(scored):
        members.setdefault(episode.episode.problem_id, []).append(index)
    return list(members.values())


def normalise_over(scored: Sequence[ScoredEpisode], normalisation: Normalisation) -> list[ScoredEpisode]:
    """The episodes with their advantages normalised over what `normalisation` says.

    Raises ValueError on an unknown one.
    """
    if normalisation == "none":
        return list(scored)
    if normalisation == "global":
        return normalise_scored(scored, advantage_moments(scored))
    if normalisation != "group":
        raise ValueError(f"normalisation is {normalisation!r}; it must be 'global', 'group' or 'none'")
    found = list(scored)
    for members in group_members(scored):
        group = [scored[i] for i in members]
        for i, episode in zip(members, normalise_scored(group, advantage_moments(group)), strict=True):
            found[i] = episode
    return found


def score_episodes(
    episodes: Sequence[Episode],
    policy_logprobs: Sequence[TurnLogprobs],
    reference_logprobs: Sequence[TurnLogprobs],
    values: Sequence[Sequence[float]],
    *,
    rewards: RewardConfig,
    beta: float,
    normalisation: Normalisation = "global",
    kl_estimator: Estimator = "k1",
) -> list[ScoredEpisode]:
    """Everything that the objective needs of each episode (RLEF, sec. 2.2).

    `policy_logprobs[e][t][i]` and `reference_logprobs[e][t][i]` belong to token i of response t of
    episode e, `values[e][t]` to its prompt. "global" normalises over all turns given here; with
    several ranks, score with "none", merge every rank's `advantage_moments`, and `normalise_scored`.

    Raises ValueError when counts of episodes, turns or tokens differ.
    """
    check_counts("episodes", len(episodes), policy_logprobs, reference_logprobs, values)
    parts = zip(episodes, policy_logprobs, reference_logprobs, values, strict=True)
    scored = [_score(*part, rewards=rewards, beta=beta, kl_estimator=kl_estimator) for part in parts]
    return normalise_over(scored, normalisation)


def _score(
    episode: Episode,
    policy: TurnLogprobs,
    reference: TurnLogprobs,
    values: Sequence[float],
    *,
    rewards: RewardConfig,
    beta: float,
    kl_estimator: Estimator,
) -> ScoredEpisode:
    check_counts(f"turns of problem {episode.problem_id!r}", len(episode.turns), policy, reference, values)
    for turn, logprobs in zip(episode.turns, policy, strict=True):
        check_counts(f"tokens of problem {episode.problem_id!r}", len(turn.completion.token_ids), logprobs)
    turn_reward = turn_rewards(episode, rewards)
    ratios = tuple(mean_log_ratio(p, r) for p, r in zip(policy, reference, strict=True))
    penalties = [mean_kl(p, r, kl_estimator) for p, r in zip(policy, reference, strict=True)]
    returns = turn_returns(turn_reward, penalties, beta)
    return ScoredEpisode(
        episode=episode,
        turn_rewards=turn_reward,
        mean_log_ratios=ratios,
        episode_return=returns[0],
        returns=returns,
        values=tuple(values),
        advantages=tuple(ret - value for ret, value in zip(returns, values, strict=True)),
    )


def check_counts(what: str, expected: int, *lists: Sequence[object]) -> None:
    """Raise ValueError unless each list has `expected` entries."""
    found = [len(entries) for entries in lists]
    if any(count != expected for count in found):
        raise ValueError(f"{what}: expected {expected} entries in each list, found {found}")
