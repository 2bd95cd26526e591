import math

import pytest
import torch

from rlef_lightning.learning.diagnostics import engine_mismatch, explained_variance


def test_mismatch_by_hand():
    found = engine_mismatch(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.5]))
    assert found.mean_abs == pytest.approx(0.25)
    assert found.max_abs == pytest.approx(0.5)
    assert found.approx_kl == pytest.approx((math.exp(-0.5) - 1 + 0.5) / 2)


def test_mismatch_of_nothing():
    assert engine_mismatch(torch.zeros(0), torch.zeros(0)).max_abs == 0.0


def test_explained_variance_by_hand():
    returns = torch.tensor([0.0, 2.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.tensor([5.0, 5.0]), returns) == 0.0
    # Residuals -0.5 and 0.5: variance 0.25 of 1.
    assert explained_variance(torch.tensor([0.5, 1.5]), returns) == pytest.approx(0.75)


def test_nothing_to_explain():
    assert explained_variance(torch.tensor([1.0, 2.0]), torch.ones(2)) == 0.0
    assert explained_variance(torch.zeros(0), torch.zeros(0)) == 0.0
    with pytest.raises(ValueError, match="returns"):
        explained_variance(torch.zeros(2), torch.zeros(1))
