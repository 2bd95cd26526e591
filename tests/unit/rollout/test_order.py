"""The problems of an epoch: passes over the split, each shuffled anew, cut into epochs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.rollout.order import epoch_problems

from .doubles import problem

SPLIT = [problem(f"p{number}") for number in range(7)]


@given(st.integers(1, 20), st.integers(0, 1 << 40))
def test_epochs_end_to_end_are_whole_passes(count: int, seed: int) -> None:
    walk = [found.id for epoch in range(7) for found in epoch_problems(SPLIT, epoch, count, seed)]
    assert len(walk) == 7 * count
    for start in range(0, len(walk), 7):
        assert sorted(walk[start : start + 7]) == [problem.id for problem in SPLIT]


def test_passes_and_seeds_differ() -> None:
    orders = {
        tuple(p.id for p in epoch_problems(SPLIT, epoch, 7, seed)) for epoch in range(3) for seed in range(3)
    }
    assert len(orders) > 6
