"""The ranks' parts of a collection -> the whole collection, as one rank alone would have brought it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlef_lightning.rollout.collector import Collection, seats_of
from rlef_lightning.rollout.settings import PlaySettings
from rlef_lightning.types import Problem


def merge(parts: Sequence[Collection], problems: Sequence[Problem], settings: PlaySettings) -> Collection:
    """One collection, its episodes in the order of problems and samples; `seconds` is that of the slowest."""
    seats = seats_of(problems, settings.samples_per_problem, seed=0)
    place = {(seat.problem.id, seat.sample_index): number for number, seat in enumerate(seats)}
    episodes = [episode for part in parts for episode in part.episodes]
    return Collection(
        episodes=tuple(sorted(episodes, key=lambda e: place[e.problem_id, e.sample_index])),
        problems=parts[0].problems,
        dropped=sum((part.dropped for part in parts), Counter()),
        seconds=max(part.seconds for part in parts),
        restored_tokens=sum(part.restored_tokens for part in parts),
    )
