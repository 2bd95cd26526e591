"""Episodes -> how the dialogues went: solved by which turn, what failed, what was repaired (RLEF, sec. 3).

Every metric here is a set of named means. It returns plain floats by stable names and leaves out a mean
over nothing (a repair rate where no turn failed), so that a logger never sees NaN. The states are sums:
adding them over ranks gives the numbers of the whole batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from rlef_lightning.metrics.edit_size import edit_size
from rlef_lightning.types import Episode, StopReason, Turn, Verdict

NO_CODE = "no_code"
"""The error class of a response that no program could be taken out of."""

ERROR_CLASSES = (
    *(verdict.value for verdict in Verdict if verdict not in (Verdict.ACCEPTED, Verdict.SKIPPED)),
    NO_CODE,
)
"""What can be wrong with a turn, in the words of the metrics' names."""


def error_class(turn: Turn) -> str | None:
    """The first public failure of a turn, or None when it passed the public tests.

    Example: error_class(turn) == "wrong_answer"
    """
    if turn.public_report is None:
        return NO_CODE
    if turn.passed_public:
        return None
    verdicts = [
        r.verdict for r in turn.public_report.results if not r.passed and r.verdict != Verdict.SKIPPED
    ]
    if not verdicts:
        raise ValueError("a public report whose only failures are skipped tests has no error class")
    return verdicts[0].value


class _NamedMeans(Metric, ABC):
    """Means over observations of episodes: a name and a number in [0, 1], or a count, each."""

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    """float64 of shape (names,): total of the observed numbers."""
    counts: Tensor
    """int64 of shape (names,): how many were observed."""

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = tuple(names)
        # float64: a sum of tens of thousands of shares keeps its last digits in any order of the ranks.
        self.add_state("sums", default=torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", default=torch.zeros(len(names), dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def observe(self, episode: Episode) -> Iterator[tuple[str, float]]:
        """What one episode says: (name, number) pairs, names among `names`."""

    def update(self, episodes: Sequence[Episode]) -> None:
        """Add episodes."""
        sums, counts = dict.fromkeys(self.names, 0.0), dict.fromkeys(self.names, 0)
        for episode in episodes:
            for name, number in self.observe(episode):
                sums[name] += number
                counts[name] += 1
        self.sums += torch.tensor([*sums.values()], dtype=self.sums.dtype, device=self.sums.device)
        self.counts += torch.tensor([*counts.values()], dtype=self.counts.dtype, device=self.counts.device)

    def compute(self) -> dict[str, float]:
        """Mean of each name that was observed."""
        rows = zip(self.names, self.sums.tolist(), self.counts.tolist(), strict=True)
        return {name: total / count for name, total, count in rows if count}


class SolveRateByTurn(_NamedMeans):
    """`solve_rate_turn_1`, ...: share of episodes that had ended solved by turn t (RLEF, sec. 3)."""

    def __init__(self, turn_limit: int, **kwargs: Any) -> None:
        if turn_limit < 1:
            raise ValueError(f"turn_limit must be at least 1, got {turn_limit}")
        super().__init__([f"solve_rate_turn_{t}" for t in range(1, turn_limit + 1)], **kwargs)

    def observe(self, episode: Episode) -> Iterator[tuple[str, float]]:
        """One observation per turn of the limit, played or not."""
        if len(episode.turns) > len(self.names):
            raise ValueError(
                f"an episode of {episode.problem_id} has {len(episode.turns)} turns, more than "
                f"turn_limit={len(self.names)}: give the metric the turn limit of the rollouts"
            )
        for t, name in enumerate(self.names, start=1):
            yield name, float(episode.solved and len(episode.turns) <= t)


class RepairRate(_NamedMeans):
    """`repair_rate` and `repair_rate/<error class>`: failed turns whose next turn passes (RLEF, sec. 3).

    Of the turns that failed the public tests and were followed by another turn, the share whose next turn
    passed the public tests; by the error class of the turn that failed.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(["repair_rate", *(f"repair_rate/{name}" for name in ERROR_CLASSES)], **kwargs)

    def observe(self, episode: Episode) -> Iterator[tuple[str, float]]:
        """Two observations, overall and by class, per failed turn that has a next one."""
        for turn, following in pairwise(episode.turns):
            if (failure := error_class(turn)) is not None:
                yield "repair_rate", float(following.passed_public)
                yield f"repair_rate/{failure}", float(following.passed_public)


class ErrorShares(_NamedMeans):
    """`errors/<error class>`: share of all turns, passing ones included, by first public failure."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__([f"errors/{name}" for name in ERROR_CLASSES], **kwargs)

    def observe(self, episode: Episode) -> Iterator[tuple[str, float]]:
        """One observation per turn and class: was it this class?"""
        for failure in map(error_class, episode.turns):
            for name in ERROR_CLASSES:
                yield f"errors/{name}", float(failure == name)


class MeanTurns(_NamedMeans):
    """`mean_turns`: responses per episode."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(["mean_turns"], **kwargs)

    def observe(self, episode: Episode) -> Iterator[tuple[str, float]]:
        """One observation per episode."""
        yield "mean_turns", float(len(episode.turns))


class Endings(_NamedMeans):
    """`ended/<stop reason>`: share of episodes; `cut_responses`: share of turns that the length limit cut."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(["cut_responses", *(f"ended/{reason.value}" for reason in StopReason)], **kwargs)

    def observe(self, episode: Episode) -> Iterator[tuple[str, float]]:
        """One observation per turn, and one per stop reason: was it this one?"""
        for turn in episode.turns:
            yield "cut_responses", float(turn.completion.finish_reason == "length")
        for reason in StopReason:
            yield f"ended/{reason.value}", float(episode.stop_reason is reason)


class CodeChange(_NamedMeans):
    """`repeated_code` and `edit_size`: what changes from one turn's program to the next (RLEF, sec. 3).

    Over consecutive turns that both have a program: the share in which the two are identical, and the mean
    of 1 - chrF (0: identical, 1: nothing in common), identical ones included.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(["repeated_code", "edit_size"], **kwargs)

    def observe(self, episode: Episode) -> Iterator[tuple[str, float]]:
        """Two observations per pair of consecutive programs."""
        for turn, following in pairwise(episode.turns):
            if turn.code is not None and following.code is not None:
                yield "repeated_code", float(turn.code == following.code)
                yield "edit_size", edit_size(before=turn.code, after=following.code)


def dialogue_metrics(turn_limit: int) -> MetricCollection:
    """All metrics of this file as one; `compute()` gives one flat dict of floats."""
    metrics: list[Metric] = [
        SolveRateByTurn(turn_limit),
        RepairRate(),
        ErrorShares(),
        MeanTurns(),
        Endings(),
        CodeChange(),
    ]
    # Compute groups merge metrics whose states happen to agree after the first update; these would not
    # agree for ever.
    return MetricCollection(metrics, compute_groups=False)
