"""Episode -> one task reward per turn (RLEF, sec. 2.2).

Does not know of KL, values or advantages (advantages.py), and never runs a program.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlef_lightning.types import Episode, Turn


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What an outcome is worth; the defaults are the paper's (RLEF, sec. 2.2).

    Example: RewardConfig(invalid_code=0.0) for single-turn training
    """

    solved: float = 1.0
    """At the last turn, when the last solution passed every public and private test."""
    failed: float = -1.0
    """At the last turn, when it failed any of them."""
    invalid_code: float = -0.2
    """At an earlier turn whose response holds no program, or one that does not compile."""


def turn_rewards(episode: Episode, config: RewardConfig) -> tuple[float, ...]:
    """The task reward r_t of each turn, without the KL part.

    The penalty for invalid code is for non-final turns only: a last turn without code has failed.

    Source: RLEF, sec. 2.2. Raises ValueError when the episode has no turn.
    """
    if not episode.turns:
        raise ValueError(f"the episode of problem {episode.problem_id!r} has no turns: nothing to reward")
    earlier = tuple(_earlier_reward(turn, config) for turn in episode.turns[:-1])
    return (*earlier, config.solved if episode.solved else config.failed)


def _earlier_reward(turn: Turn, config: RewardConfig) -> float:
    return 0.0 if turn.has_valid_code else config.invalid_code
