"""Collections -> the numbers of an evaluation (RLEF, sec. 3): what is asked, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlef_lightning.errors import ConfigError, ExecutorError
from rlef_lightning.metrics import SolveRate, dialogue_metrics
from rlef_lightning.rollout import Collection, PlaySettings
from rlef_lightning.types import Episode, Sampling

# RLEF, sec. 3: temperature 0.2 and top-p 0.95 for 1@3.
EVALUATION_SAMPLING = Sampling(temperature=0.2, top_p=0.95)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of n@k.

    Example: 1@3 with feedback is Evaluation(play=PlaySettings(turn_limit=3)); 1@3 of independent samples
    is Evaluation(play=PlaySettings(turn_limit=1, samples_per_problem=3))
    """

    play: PlaySettings = field(default_factory=lambda: PlaySettings(sampling=EVALUATION_SAMPLING))
    """How the episodes are played."""
    n: int = 1
    """Solutions that may be handed in, selected by the public tests."""
    k: int = 3
    """Samples that they are selected from; every turn counts as one."""
    problems: int | None = None
    """Only the first so many problems of the split; null: all."""

    def __post_init__(self) -> None:
        if self.problems is not None and self.problems < 1:
            raise ConfigError(f"problems is {self.problems}; it must be null or at least 1")
        if self.n < 1 or self.n > self.k:
            raise ConfigError(f"n is {self.n} and k is {self.k}: n@k needs 1 <= n <= k")
        if self.k < self.play.turn_limit:
            raise ConfigError(
                f"k is {self.k}, but one episode of play.turn_limit={self.play.turn_limit} turns counts as "
                "so many samples: raise k or lower play.turn_limit"
            )
        if self.play.samples_per_problem < self.rollouts_needed:
            raise ConfigError(
                f"{self.n}@{self.k} at {self.play.turn_limit} turns needs {self.rollouts_needed} episodes of "
                f"each problem, play.samples_per_problem is {self.play.samples_per_problem}: raise it"
            )

    @property
    def rollouts_needed(self) -> int:
        """Episodes of a problem that make k samples."""
        return self.k // self.play.turn_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The one item of an evaluation's dataloader."""

    name: str
    evaluation: Evaluation
    collection: Collection
    parity: float
    """Largest difference of engine and trainer after the weight sync before it."""


def evaluation_metrics(evaluated: Evaluated, prefix: str) -> dict[str, float]:
    """n@k with its 95% interval, and the dialogue's numbers, as `prefix/name`."""
    evaluation = evaluated.evaluation
    episodes = _complete(evaluated.collection.episodes, evaluation.rollouts_needed)
    if not episodes:
        raise ExecutorError(
            f"no problem of evaluation {evaluated.name!r} has enough episodes left after drops"
        )
    left_out = evaluated.collection.problems - len({episode.problem_id for episode in episodes})
    solve = SolveRate(n=evaluation.n, k=evaluation.k, turn_limit=evaluation.play.turn_limit)
    solve.update(episodes)
    low, high = solve.confidence_interval()
    dialogue = dialogue_metrics(evaluation.play.turn_limit)
    dialogue.update(episodes)
    name = f"solve_{evaluation.n}at{evaluation.k}"
    numbers = {
        name: float(solve.compute()),
        f"{name}_low": low,
        f"{name}_high": high,
        "problems_left_out": float(left_out),
        "parity": evaluated.parity,
        "dropped": float(evaluated.collection.dropped.total()),
        **{key: float(number) for key, number in dialogue.compute().items()},
    }
    return {f"{prefix}/{key}": number for key, number in numbers.items()}


def _complete(episodes: Sequence[Episode], needed: int) -> list[Episode]:
    """Episodes of the problems that have enough of them after drops."""
    counts = Counter(episode.problem_id for episode in episodes)
    return [episode for episode in episodes if counts[episode.problem_id] >= needed]


def collection_metrics(collection: Collection, turn_limit: int) -> dict[str, float]:
    """The numbers of one epoch's episodes."""
    dialogue = dialogue_metrics(turn_limit)
    dialogue.update(collection.episodes)
    solved = sum(episode.solved for episode in collection.episodes)
    sampled_tokens = collection.response_tokens - collection.restored_tokens
    return {
        "solve_rate": solved / len(collection.episodes),
        **{key: float(number) for key, number in dialogue.compute().items()},
        "episodes": float(len(collection.episodes)),
        "dropped": float(collection.dropped.total()),
        "collecting_tokens_per_s": sampled_tokens / collection.seconds,
    }


def solution(episode: Episode) -> dict[str, str | int | bool | None]:
    """What an episode hands in: its last program, and how it fared."""
    last = episode.turns[-1]
    return {
        "problem_id": episode.problem_id,
        "sample_index": episode.sample_index,
        "code": last.code,
        "passed_public": last.passed_public,
        "solved": episode.solved,
        "turns": len(episode.turns),
        "stop_reason": str(episode.stop_reason),
    }
