import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.learning.advantages import (
    Moments,
    advantage_moments,
    group_members,
    merge_moments,
    moments,
    normalise,
    normalise_scored,
    score_episodes,
    turn_returns,
)
from rlef_lightning.learning.rewards import RewardConfig

numbers = st.lists(st.floats(-10, 10), min_size=1, max_size=20)


def test_returns_by_hand():
    # R = (-0.2 - 0.05*2, 0 - 0.05*(-4), -1 - 0) = (-0.3, 0.2, -1.0); summed from the end.
    assert turn_returns((-0.2, 0.0, -1.0), (2.0, -4.0, 0.0), beta=0.05) == pytest.approx((-1.1, -0.8, -1.0))


def test_returns_lengths():
    with pytest.raises(ValueError, match="2 rewards but 1"):
        turn_returns((0.0, 1.0), (0.0,), beta=0.05)


def test_normalise_by_hand():
    # mean 2, std sqrt((4 + 0 + 4) / 3) = 1.63299
    assert normalise((0.0, 2.0, 4.0), moments((0.0, 2.0, 4.0))) == pytest.approx((-1.2247449, 0.0, 1.2247449))


@pytest.mark.parametrize("value", [0.0, 0.1, -0.3, 1e6])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_no_spread_gives_zeros(value, count):
    assert normalise((value,) * count, moments((value,) * count)) == (0.0,) * count


@given(numbers)
def test_normalised_moments(values):
    after = moments(normalise(values, moments(values)))
    assert all(map(math.isfinite, (after.mean, after.squares)))
    assert abs(after.mean) < 1e-3
    assert after.std < 1.001


@given(st.lists(st.lists(st.floats(-10, 10), max_size=6), max_size=5))
def test_merging_equals_one_list(parts):
    merged = merge_moments(map(moments, parts))
    whole = moments([x for part in parts for x in part])
    assert merged.count == whole.count
    assert merged.mean == pytest.approx(whole.mean, abs=1e-9)
    assert merged.squares == pytest.approx(whole.squares, abs=1e-7)


def test_no_numbers():
    assert merge_moments([]) == Moments(count=0, mean=0.0, squares=0.0)
    assert moments([]).std == 0.0


def score(episodes, policy, reference, values, normalisation):
    return score_episodes(
        episodes, policy, reference, values, rewards=RewardConfig(), beta=0.5, normalisation=normalisation
    )


@pytest.fixture
def batch(turn, episode):
    two_turns = episode(turn((1,), (2, 3), verdict=None), turn((1, 2, 3, 4), (5,)))
    one_turn = episode(turn((1,), (2,)))
    policy = [[[-1.0, -2.0], [-0.5]], [[-3.0]]]
    reference = [[[-1.5, -2.5], [-0.25]], [[-3.0]]]
    return [two_turns, one_turn], policy, reference, [[0.25, -0.5], [0.0]]


def test_scores_by_hand(batch):
    # Mean log-ratios: (0.5 + 0.5) / 2 = 0.5 and -0.25; R = (-0.2 - 0.25, -1 + 0.125) = (-0.45, -0.875).
    first, second = score(*batch, "none")
    assert first.turn_rewards == (-0.2, -1.0)
    assert first.mean_log_ratios == (0.5, -0.25)
    assert first.returns == pytest.approx((-1.325, -0.875))
    assert first.values == (0.25, -0.5)
    assert first.advantages == pytest.approx((-1.575, -0.375))
    assert (second.returns, second.advantages) == ((-1.0,), (-1.0,))


def test_global_normalisation_is_over_all_turns(batch):
    raw = score(*batch, "none")
    flat = [a for s in raw for a in s.advantages]
    expected = normalise(flat, moments(flat))
    assert [a for s in score(*batch, "global") for a in s.advantages] == pytest.approx(expected)


def test_normalisation_within_the_episodes_of_a_problem(batch):
    episodes, *rest = batch
    apart = [replace(episodes[0], problem_id="a"), replace(episodes[1], problem_id="b")]
    first, second = score(apart, *rest, "group")
    raw = score(apart, *rest, "none")
    assert first.advantages == pytest.approx(normalise(raw[0].advantages, moments(raw[0].advantages)))
    assert second.advantages == (0.0,)
    assert group_members([*raw, *raw[:1]]) == [[0, 2], [1]]
    together = score(episodes, *rest, "group")
    assert [s.advantages for s in together] == [s.advantages for s in score(*batch, "global")]


def test_two_ranks_equal_one(batch):
    raw = score(*batch, "none")
    over = merge_moments([advantage_moments(raw[:1]), advantage_moments(raw[1:])])
    ranks = normalise_scored(raw[:1], over) + normalise_scored(raw[1:], over)
    for one, two in zip(score(*batch, "global"), ranks, strict=True):
        assert one.advantages == pytest.approx(two.advantages)


def test_wrong_counts(batch):
    episodes, policy, reference, values = batch
    with pytest.raises(ValueError, match="turns of problem 'p': expected 2"):
        score(episodes, policy, reference, [[0.25], [0.0]], "none")
    with pytest.raises(ValueError, match="tokens of problem"):
        score(episodes, [[[-1.0], [-0.5]], [[-3.0]]], reference, values, "none")
    with pytest.raises(ValueError, match="episodes: expected 2"):
        score(episodes, policy[:1], reference, values, "none")


def test_unknown_normalisation(batch):
    with pytest.raises(ValueError, match="'batch'"):
        score(*batch, "batch")
