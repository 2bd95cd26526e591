"""Keeping episodes back for the counter helps engines that compute, and costs those that wait for memory."""

from __future__ import annotations

import statistics

import pytest

from tools.bench.handing_out import ENGINES, SPEEDS, makespan


def span(part: float, engine: str, ranks: str) -> float:
    return statistics.mean(makespan(part, ENGINES[engine], SPEEDS[ranks], seed, 128) for seed in range(3))


def test_uneven_ranks_whose_engines_compute_end_sooner_with_half_kept_back() -> None:
    assert span(1 / 2, "computes", "one 3 x") < 0.8 * span(1, "computes", "one 3 x")


def test_even_ranks_whose_engines_compute_lose_nothing_by_it() -> None:
    assert span(1 / 2, "computes", "even") == pytest.approx(span(1, "computes", "even"), rel=0.1)


def test_engines_that_wait_for_memory_end_later_even_where_one_rank_is_slower() -> None:
    for ranks in ("even", "one 1.5 x slower"):
        assert span(1 / 2, "waits for memory", ranks) > 1.2 * span(1, "waits for memory", ranks)


def test_the_same_seed_gives_the_same_time_and_slower_ranks_a_longer_one() -> None:
    assert span(1, "between", "even") == span(1, "between", "even") < span(1, "between", "one 3 x")
