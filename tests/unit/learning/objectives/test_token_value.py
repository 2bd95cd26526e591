"""One value and one advantage for each response token, over all turns of an episode."""

import pytest

from rlef_lightning.errors import ConfigError
from rlef_lightning.learning.objectives import PPO, TokenValuePPO


@pytest.fixture
def batch(turn, episode):
    """Two turns of 2 and 1 tokens (the first without code), and one turn of 1 token; none solved."""
    two_turns = episode(turn((1,), (2, 3), verdict=None), turn((1, 2, 3, 4, 4, 4), (5,)))
    one_turn = episode(turn((1,), (2,)))
    policy = [[[-1.0, -2.0], [-0.5]], [[-3.0]]]
    reference = [[[-1.5, -2.5], [-0.25]], [[-3.0]]]
    values = [[[0.25, 0.5], [-0.5]], [[0.0]]]
    return [two_turns, one_turn], policy, reference, values


def objective(**options):
    return TokenValuePPO(**{"beta": 0.5, "normalisation": "none", "gae_lambda": 0.5, **options})


def test_scores_by_hand(batch):
    """Log-ratios (0.5, 0.5 | -0.25); each token has beta / n of its own, the last one of a turn r_t as well.

    rewards -0.125, -0.125 - 0.2 | 0.125 - 1       = -0.125, -0.325, -0.875
    values   0.25, 0.5 | -0.5
    delta   -0.125 + 0.5 - 0.25, -0.325 - 0.5 - 0.5, -0.875 + 0.5    = 0.125, -1.325, -0.375
    A        0.125 - 0.5 * 1.5125, -1.325 - 0.5 * 0.375, -0.375      = -0.63125, -1.5125, -0.375
    """
    first, second = objective().score(*batch)
    assert first.turn_rewards == (-0.2, -1.0)
    assert first.values == (0.25, 0.5, -0.5)
    assert first.advantages == pytest.approx((-0.63125, -1.5125, -0.375))
    assert first.returns == pytest.approx((-0.63125 + 0.25, -1.5125 + 0.5, -0.375 - 0.5))
    assert (second.advantages, second.returns) == ((-1.0,), (-1.0,))


def test_the_episodes_return_is_that_of_the_turn_level(batch):
    episodes, policy, reference, values = batch
    turns = PPO(beta=0.5).score(episodes, policy, reference, [[[0.0]] * len(v) for v in values])
    for token, turn in zip(objective(gae_lambda=1.0).score(*batch), turns, strict=True):
        assert token.episode_return == turn.episode_return
        # Monte Carlo: the first token's return is the first turn's, whatever the values.
        assert token.returns[0] == pytest.approx(turn.returns[0])
        assert token.mean_log_ratios == turn.mean_log_ratios


def test_one_token_a_turn_and_monte_carlo_is_the_turn_level(turn, episode):
    dialogue = episode(turn((1,), (2,)), turn((1, 2, 3), (4,)))
    rest = [[[-1.0], [-0.5]]], [[[-1.5], [-0.25]]], [[[0.3], [-0.2]]]
    (token,) = objective(gae_lambda=1.0).score([dialogue], *rest)
    (turns,) = PPO(beta=0.5, normalisation="none").score([dialogue], *rest)
    assert token.advantages == pytest.approx(turns.advantages)
    assert token.returns == pytest.approx(turns.returns)


def test_advantages_are_normalised_over_all_tokens(batch):
    advantages = [a for s in objective(normalisation="global").score(*batch) for a in s.advantages]
    assert len(advantages) == 4
    assert sum(advantages) == pytest.approx(0.0, abs=1e-6)
    assert sum(a * a for a in advantages) / 4 == pytest.approx(1.0, abs=1e-6)


def test_kl_in_the_loss_leaves_the_reward(batch):
    first, _ = objective(kl="loss", kl_estimator="k3", gae_lambda=1.0).score(*batch)
    assert first.returns == pytest.approx((-1.2, -1.2, -1.0))
    assert first.episode_return == pytest.approx(-1.2)


def test_wrong_counts(batch, turn, episode):
    episodes, policy, reference, values = batch
    with pytest.raises(ValueError, match="episodes: expected 2"):
        objective().score(episodes, policy, reference, values[:1])
    with pytest.raises(ValueError, match="turns of problem 'p': expected 2"):
        objective().score(episodes, policy, reference, [[[0.25, 0.5]], [[0.0]]])
    with pytest.raises(ValueError, match=r"rewards is \(3,\) and values \(2,\)"):
        objective().score(episodes, policy, reference, [[[0.25], [-0.5]], [[0.0]]])
    empty = episode(turn((1,), ()))
    with pytest.raises(ValueError, match="response without tokens"):
        objective().score([empty], [[[]]], [[[]]], [[[]]])


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_lambda_is_a_share(value):
    with pytest.raises(ConfigError, match=rf"objective\.gae_lambda is {value}"):
        TokenValuePPO(gae_lambda=value)
