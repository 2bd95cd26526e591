import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.learning.gae import gae


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_by_hand():
    # delta = (0 + 0.4 - 0.2, 0.5 + 0.1 - 0.4, -1 + 0 - 0.1) = (0.2, 0.2, -1.1)
    # A = (0.2 + 0.5 * -0.35, 0.2 + 0.5 * -1.1, -1.1)
    found = gae(tensor(0, 0.5, -1), tensor(0.2, 0.4, 0.1), gae_lambda=0.5)
    torch.testing.assert_close(found, tensor(0.025, -0.35, -1.1))


def test_discount_by_hand():
    # gamma = 0.5: delta = (1 + 0.5 * 4 - 2, 3 - 4) = (1, -1); A_0 = 1 + 0.5 * 0.5 * -1
    torch.testing.assert_close(gae(tensor(1, 3), tensor(2, 4), 0.5, gamma=0.5), tensor(0.75, -1))


def test_no_tokens():
    assert gae(tensor(), tensor(), 0.9).shape == (0,)


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 1), (2, 1)), ((), ())])
def test_shapes(shapes):
    with pytest.raises(ValueError, match=r"they must be \[R\]"):
        gae(*map(torch.zeros, shapes), gae_lambda=0.9)


number = st.floats(-3, 3)
episodes = st.lists(st.tuples(number, number, st.booleans()), min_size=1, max_size=12)
"""Reward, value, and whether the token is one of a response, of each token of a whole dialogue."""


def mixture_of_steps(dialogue, weight):
    """Of each response token, the lambda-weighted mean of its n-step advantages (arXiv 1506.02438)."""
    chosen = [(reward, value) for reward, value, response in dialogue if response]
    found = []
    for i in range(len(chosen)):
        left = chosen[i:]
        steps = []
        for n in range(1, len(left) + 1):
            after = left[n][1] if n < len(left) else 0.0
            steps.append(sum(reward for reward, _ in left[:n]) + after - left[0][1])
        shares = [(1 - weight) * weight**n for n in range(len(left) - 1)] + [weight ** (len(left) - 1)]
        found.append(sum(share * step for share, step in zip(shares, steps, strict=True)))
    return found


def estimated(dialogue, weight):
    chosen = [(reward, value) for reward, value, response in dialogue if response]
    rewards, values = (tensor(*column) for column in (zip(*chosen, strict=True) if chosen else ((), ())))
    return gae(rewards, values, weight).tolist()


@given(episodes, st.floats(0, 1))
def test_equals_the_mixture_of_n_step_advantages(dialogue, weight):
    assert estimated(dialogue, weight) == pytest.approx(mixture_of_steps(dialogue, weight), abs=1e-9)


@given(episodes)
def test_lambda_one_is_monte_carlo(dialogue):
    chosen = [(reward, value) for reward, value, response in dialogue if response]
    expected = [sum(r for r, _ in chosen[i:]) - value for i, (_, value) in enumerate(chosen)]
    assert estimated(dialogue, 1.0) == pytest.approx(expected, abs=1e-9)
