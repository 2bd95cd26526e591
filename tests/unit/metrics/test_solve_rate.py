"""n@k against enumeration and against numbers worked out by hand."""

from itertools import combinations
from math import comb

import pytest
import torch
from episodes import failed, passed_public_only, solved
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.metrics import SolveRate, n_at_k
from rlef_lightning.metrics.solve_rate import problem_key


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    samples = draw(st.integers(1, 6))
    passing = draw(st.integers(0, samples))
    correct = draw(st.integers(0, passing))
    return samples, passing, correct, draw(st.integers(1, 7)), draw(st.integers(1, samples))


def enumerated(samples: int, passing: int, correct: int, n: int, k: int) -> float:
    """Samples 0..correct-1 are correct, up to passing-1 pass: every choice of k, every selection of n."""
    rates = []
    for chosen in combinations(range(samples), k):
        passes = [sample for sample in chosen if sample < passing]
        selections = [*combinations(passes, min(n, len(passes)))]
        rates.append(sum(any(s < correct for s in picks) for picks in selections) / len(selections))
    return sum(rates) / len(rates)


@given(counts())
def test_n_at_k_is_the_mean_over_all_choices(numbers: tuple[int, int, int, int, int]) -> None:
    assert n_at_k(*numbers) == pytest.approx(enumerated(*numbers), abs=1e-12)


@given(st.integers(1, 200), st.data())
def test_with_n_of_at_least_k_it_is_pass_at_k(samples: int, data: st.DataObject) -> None:
    passing = data.draw(st.integers(0, samples))
    correct = data.draw(st.integers(0, passing))
    k = data.draw(st.integers(1, samples))
    pass_at_k = 1 - comb(samples - correct, k) / comb(samples, k)
    assert n_at_k(samples, passing, correct, n=k, k=k) == pytest.approx(pass_at_k, abs=1e-9)


def test_n_at_k_by_hand() -> None:
    # One of 4 samples is drawn: it is the one correct one with 1/4.
    assert n_at_k(samples=4, passing_public=2, correct=1, n=1, k=1) == pytest.approx(1 / 4)
    # All 4 are drawn and the 2 that pass are selected from: 1/2 with one pick, certain with two.
    assert n_at_k(samples=4, passing_public=2, correct=1, n=1, k=4) == pytest.approx(1 / 2)
    assert n_at_k(samples=4, passing_public=2, correct=1, n=2, k=4) == pytest.approx(1.0)
    # 2 of 4: both passes with 1/6 (then 1/2), one pass with 4/6 (then 1/2), none with 1/6.
    assert n_at_k(samples=4, passing_public=2, correct=1, n=1, k=2) == pytest.approx(5 / 12)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((4, 2, 3, 1, 1), "correct=3, passing_public=2, samples=4"),
        ((4, 5, 1, 1, 1), "passing_public=5, samples=4"),
        ((4, 2, 1, 0, 1), "n=0"),
        ((4, 2, 1, 1, 5), "k=5, samples=4"),
        ((4, 2, 1, 1, 0), "k=0"),
    ],
)
def test_impossible_counts_are_named(numbers: tuple[int, int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        n_at_k(*numbers)


def test_every_turn_of_the_limit_counts_as_a_sample() -> None:
    assert SolveRate(n=1, k=3, turn_limit=3).rollouts_needed == 1
    assert SolveRate(n=1, k=3, turn_limit=1).rollouts_needed == 3
    assert SolveRate(n=10, k=100, turn_limit=3).rollouts_needed == 33


def test_solve_rate_is_the_mean_over_problems_of_any_number_of_rollouts() -> None:
    metric = SolveRate(n=1, k=3, turn_limit=3)
    metric.update([solved("a"), failed("a"), passed_public_only("b")])
    metric.update([])
    metric.update([solved("c", 2), solved("a", 1), failed("a")])
    # a: 2 of 4, b: 0 of 1, c: 1 of 1; the mean over episodes would be 3/6.
    assert metric.compute().item() == pytest.approx((2 / 4 + 0 + 1) / 3)


def test_selection_is_by_the_public_tests() -> None:
    metric = SolveRate(n=1, k=9, turn_limit=3)
    metric.update([solved("a"), passed_public_only("a"), failed("a")])
    # All 3 rollouts are drawn, one of the two public passes is selected.
    assert metric.compute().item() == pytest.approx(1 / 2)


def test_too_few_rollouts_are_named() -> None:
    metric = SolveRate(n=1, k=9, turn_limit=3)
    metric.update([solved("a")] * 3 + [failed("b")] * 2)
    with pytest.raises(
        ValueError, match=r"needs 3 rollouts.*1 of 2 problems.*as few as 2.*samples per problem"
    ):
        metric.compute()


def test_impossible_settings_and_no_episodes_are_errors() -> None:
    with pytest.raises(ValueError, match="k=2, turn_limit=3"):
        SolveRate(n=1, k=2, turn_limit=3)
    metric = SolveRate(n=1, k=3, turn_limit=3)
    metric.update([])
    with pytest.raises(ValueError, match="no episodes"):
        metric.compute()
    metric.update([solved("a")])
    with pytest.raises(ValueError, match="resamples >= 1, got 0"):
        metric.confidence_interval(resamples=0)


def test_bootstrap_resamples_problems() -> None:
    metric = SolveRate(n=1, k=3, turn_limit=3)
    metric.update([solved(f"yes-{i}") for i in range(50)] + [failed(f"no-{i}") for i in range(50)])
    low, high = metric.confidence_interval(resamples=2000, seed=1)
    # Binomial with 100 problems at one half: standard error 0.05.
    assert (low, high) == (pytest.approx(0.40, abs=0.021), pytest.approx(0.60, abs=0.021))
    assert metric.confidence_interval(resamples=2000, seed=1) == (low, high)
    certain = SolveRate(n=1, k=3, turn_limit=3)
    certain.update([solved("a"), solved("b")])
    assert certain.confidence_interval() == (1.0, 1.0)


def test_keys_are_stable_and_reset_forgets() -> None:
    # printf sum-1 | b2sum -l 64
    assert problem_key("sum-1") == 0xEB2A22C4FBFE2E9C - 2**64 != problem_key("sum-2")
    metric = SolveRate(n=1, k=3, turn_limit=3)
    metric.update([failed("a")])
    metric.reset()
    metric.update([solved("a")])
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == 1.0
