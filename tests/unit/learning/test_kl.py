import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.learning.kl import k3, kl_terms, mean_kl, mean_log_ratio, token_kl

logprobs = st.lists(st.floats(-10, 0), min_size=1, max_size=10)


def test_geometric_mean_by_hand():
    # Probabilities 0.5, 0.5 against 0.25, 0.5: geometric means 0.5 and sqrt(0.125), ratio sqrt(2).
    policy, reference = [math.log(0.5)] * 2, [math.log(0.25), math.log(0.5)]
    assert mean_log_ratio(policy, reference) == pytest.approx(math.log(math.sqrt(2)))


@given(logprobs, st.integers(2, 4))
def test_length_does_not_enter(policy, times):
    reference = [p - 0.3 for p in policy]
    long = mean_log_ratio(policy * times, reference * times)
    assert long == pytest.approx(mean_log_ratio(policy, reference))


def test_empty_and_unequal():
    assert mean_log_ratio([], []) == 0.0
    with pytest.raises(ValueError, match="1 tokens and reference_logprobs 2"):
        mean_log_ratio([0.0], [0.0, 0.0])


def test_k3_by_hand():
    # d = log 2: exp(d) - 1 - d = 2 - 1 - 0.693147
    sampled, other = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0 + math.log(2), -2.0])
    torch.testing.assert_close(k3(sampled, other), torch.tensor([1 - math.log(2), 0.0]))


def test_k3_is_unbiased():
    p, q = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.3, 0.3, 0.4]).log()
    exact = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * k3(p, q)).sum(), exact)


@given(logprobs)
def test_k3_is_not_negative(policy):
    sampled = torch.tensor(policy, dtype=torch.float64)
    assert (k3(sampled, sampled.flip(0)) >= 0).all()


def test_k3_shapes():
    with pytest.raises(ValueError, match="one shape"):
        k3(torch.zeros(2), torch.zeros(3))


def test_estimators_by_hand():
    # log-ratio d = log 2: k1 = d, k2 = d^2 / 2, k3 = 1/2 - 1 + d.
    policy, reference = [-1.0], [-1.0 - math.log(2)]
    d = math.log(2)
    for estimator, expected in (("k1", d), ("k2", d * d / 2), ("k3", d - 0.5)):
        assert token_kl(policy, reference, estimator) == pytest.approx([expected])
        assert mean_kl(policy * 2, reference * 2, estimator) == pytest.approx(expected)
        assert mean_kl([], [], estimator) == 0.0


@given(logprobs)
def test_k1_of_a_response_is_its_mean_log_ratio(policy):
    reference = policy[::-1]
    assert mean_kl(policy, reference, "k1") == mean_log_ratio(policy, reference)
    assert sum(token_kl(policy, reference, "k1")) / len(policy) == pytest.approx(
        mean_log_ratio(policy, reference), abs=1e-9
    )


def test_gradients_of_the_estimators():
    """Over tokens drawn from p itself: k2 has the gradient of KL(p || q), k1 none, k3 that of KL(q || p)."""
    logits = torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64).log()

    def gradient(loss):
        return torch.autograd.grad(loss(logits.log_softmax(-1)), logits)[0]

    def sampled(estimator):
        return gradient(lambda p: (p.detach().exp() * kl_terms(p, q, estimator)).sum())

    torch.testing.assert_close(sampled("k2"), gradient(lambda p: (p.exp() * (p - q)).sum()))
    torch.testing.assert_close(sampled("k1"), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(sampled("k3"), gradient(lambda p: (q.exp() * (q - p)).sum()))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_shapes_of_every_estimator(estimator):
    with pytest.raises(ValueError, match="one shape"):
        kl_terms(torch.zeros(2), torch.zeros(3), estimator)
