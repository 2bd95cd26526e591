import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.learning.kl import k3, mean_log_ratio

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
