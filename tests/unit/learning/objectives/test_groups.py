"""GRPO and RLOO: episodes of one problem compared with each other."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.errors import ConfigError
from rlef_lightning.learning.objectives import GRPO, PPO, RLOO
from rlef_lightning.types import Verdict

groups = st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=6), min_size=1, max_size=4)
both = pytest.mark.parametrize("objective", [GRPO(), GRPO(divide_by="batch"), GRPO(divide_by="none"), RLOO()])


def test_grpo_by_hand():
    # (1, 1, 1, -1): mean 0.5, deviation sqrt((3 * 0.25 + 2.25) / 4) = sqrt(3) / 2.
    found = GRPO().compare([[1.0, 1.0, 1.0, -1.0], [0.0, 2.0]])
    assert found[0] == pytest.approx([0.5 / 0.8660254] * 3 + [-1.5 / 0.8660254])
    assert found[1] == pytest.approx([-1.0, 1.0])


def test_grpo_divides_by_the_batch_or_not_at_all():
    # Centred (0.5, 0.5, 0.5, -1.5) and (-1, 1): squares 3 + 2 over 6 numbers.
    returns, deviation = [[1.0, 1.0, 1.0, -1.0], [0.0, 2.0]], (5 / 6) ** 0.5
    assert GRPO(divide_by="none").compare(returns) == [[0.5, 0.5, 0.5, -1.5], [-1.0, 1.0]]
    first, second = GRPO(divide_by="batch").compare(returns)
    assert first == pytest.approx([0.5 / deviation] * 3 + [-1.5 / deviation])
    assert second == pytest.approx([-1 / deviation, 1 / deviation])


def test_rloo_by_hand():
    # 1 - (1 - 1) / 2 for the solved ones, -1 - (1 + 1) / 2 for the other.
    assert RLOO().compare([[1.0, 1.0, -1.0], [0.5]]) == [[1.0, 1.0, -2.0], [0.0]]


@both
@given(returns=groups)
def test_advantages_of_a_group_cancel(objective, returns):
    for group in objective.compare(returns):
        assert sum(group) == pytest.approx(0.0, abs=1e-4)


@both
@given(returns=groups, shift=st.floats(-5, 5))
def test_equally_good_episodes_teach_nothing(objective, returns, shift):
    level = [[shift] * len(group) for group in returns]
    assert all(
        advantage == pytest.approx(0.0, abs=1e-9) for group in objective.compare(level) for advantage in group
    )


@given(returns=groups, shift=st.floats(-5, 5))
def test_a_harder_problem_does_not_shift_rloo(returns, shift):
    moved = [[value + shift for value in group] for group in returns]
    for one, other in zip(RLOO().compare(returns), RLOO().compare(moved), strict=True):
        assert one == pytest.approx(other, abs=1e-9)


@pytest.fixture
def batch(turn, episode):
    """Problem a: solved in two turns (the first without code), failed. Problem b: failed twice. Mixed."""
    solved = episode(
        turn((1,), (2,), verdict=None), turn((1, 2, 3), (4, 5), Verdict.ACCEPTED), private=Verdict.ACCEPTED
    )
    failed = episode(turn((1,), (2,)))
    episodes = [
        replace(e, problem_id=p) for e, p in zip([solved, failed, failed, failed], "abab", strict=True)
    ]
    logprobs = [[[-1.0] * len(t.completion.token_ids) for t in e.turns] for e in episodes]
    return episodes, logprobs, logprobs, [[()] * len(e.turns) for e in episodes]


def test_one_advantage_for_all_turns_of_an_episode(batch):
    # a: returns -0.2 + 1 and -1; b: twice -1.
    scored = RLOO().score(*batch)
    assert [s.episode_return for s in scored] == pytest.approx([0.8, -1.0, -1.0, -1.0])
    assert [s.advantages for s in scored] == [
        pytest.approx((1.8, 1.8)),
        (0.0,),
        pytest.approx((-1.8,)),
        (0.0,),
    ]
    assert scored[0].values == (0.0, 0.0)
    assert [s.advantages for s in GRPO().score(*batch)] == [
        pytest.approx((1.0, 1.0)),
        (0.0,),
        pytest.approx((-1.0,)),
        (0.0,),
    ]


def test_the_kl_is_in_the_return_or_in_the_loss(batch):
    episodes, policy, _, values = batch
    reference = [[[-1.5] * len(turn) for turn in episode] for episode in policy]
    inside = RLOO(beta=0.1).score(episodes, policy, reference, values)
    outside = RLOO(beta=0.1, kl="loss", kl_estimator="k3").score(episodes, policy, reference, values)
    # Each turn costs 0.1 * 0.5.
    assert [s.episode_return for s in inside] == pytest.approx([0.7, -1.05, -1.05, -1.05])
    assert [s.episode_return for s in outside] == pytest.approx([0.8, -1.0, -1.0, -1.0])


def test_who_needs_groups_and_who_values():
    assert [o.needs_groups for o in (PPO(), PPO(normalisation="group"), GRPO(), RLOO())] == [
        False,
        True,
        True,
        True,
    ]
    assert [o.value_level for o in (PPO(), GRPO(), RLOO())] == ["turn", None, None]


def test_there_is_no_value_loss():
    with pytest.raises(ValueError, match="GRPO has no value network"):
        GRPO().value_loss(None, None, None, 1)


def test_options_that_are_shared_have_one_default():
    """A configuration that changes the class alone keeps the values of the options that both classes have."""
    shared = [name for name in vars(GRPO()) if name != "divide_by"]
    assert "kl" in shared
    for name in shared:
        assert getattr(GRPO(), name) == getattr(PPO(), name) == getattr(RLOO(), name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl": "loss"}, "kl_estimator k1, whose gradient is 0 on average: set kl_estimator to k3"),
        ({"beta": -0.1}, r"objective\.beta is -0\.1; it must be at least 0"),
        ({"clip_epsilon": 0.0}, r"objective\.clip_epsilon is 0\.0; it must be above 0"),
        ({"clip_epsilon_high": -1.0}, r"objective\.clip_epsilon_high is -1\.0; it must be above 0"),
        ({"dual_clip": 1.0}, r"objective\.dual_clip is 1\.0; it must be above 1"),
        ({"correction_cap": 0.0}, r"objective\.correction_cap is 0\.0; it must be above 0"),
    ],
)
def test_numbers_without_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PPO(**options)
    assert PPO(beta=0.0).reward_beta == 0.0
