import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_lightning.learning.losses import kl_loss, policy_loss, value_loss


def log(*values):
    return torch.tensor([math.log(v) for v in values], dtype=torch.float64)


def by_hand():
    """Five tokens, policy / old and policy / behaviour chosen so that every case of the minimum occurs.

    token  pi/old  pi/beh  ratio            A    ratio*A  clipped*A  min
    1      1       1       1                2     2        2          2
    2      1.5     1       1.5              1     1.5      1.2        1.2   clipped
    3      1.5     0.5     1.5*0.5 = 0.75  -1    -0.75    -0.8       -0.8   clipped
    4      0.5     1       0.5             -2    -1       -1.6       -1.6   clipped
    5      2       0.5     2*0.5 = 1        3     3        3          3     (clip before correction: 1.8)
    """
    new = log(0.3, 0.3, 0.3, 0.1, 0.4)
    old = log(0.3, 0.2, 0.2, 0.2, 0.2)
    behaviour = log(0.3, 0.3, 0.6, 0.1, 0.8)
    advantages = torch.tensor([2.0, 1.0, -1.0, -2.0, 3.0], dtype=torch.float64)
    return new.requires_grad_(), old, behaviour, advantages, torch.ones(5, dtype=torch.bool)


def test_policy_loss_by_hand():
    # Sum of the minima 2 + 1.2 - 0.8 - 1.6 + 3 = 3.8; the mini-batch has 10 tokens.
    result = policy_loss(*by_hand(), total_tokens=10)
    assert result.loss.item() == pytest.approx(-0.38)
    assert result.clip_fraction.item() == pytest.approx(0.3)
    assert result.ratio_mean.item() == pytest.approx((1 + 1.5 + 0.75 + 0.5 + 1) / 10)
    assert result.ratio_max.item() == pytest.approx(1.5)
    assert result.correction_mean.item() == pytest.approx((1 + 1 + 0.5 + 1 + 0.5) / 10)


def test_policy_gradient_by_hand():
    # d(-ratio * A / 10) / d log pi = -ratio * A / 10, none where clipped and none through the correction.
    arguments = by_hand()
    policy_loss(*arguments, total_tokens=10).loss.backward()
    expected = torch.tensor([-0.2, 0.0, 0.0, 0.0, -0.3], dtype=torch.float64)
    torch.testing.assert_close(arguments[0].grad, expected)


def test_correction_is_truncated_at_one():
    new, _, _, advantages, mask = by_hand()
    result = policy_loss(new, new.detach(), new.detach() - 3.0, advantages, mask, total_tokens=5)
    assert result.correction_mean.item() == pytest.approx(1.0)
    assert result.loss.item() == pytest.approx(-advantages.sum().item() / 5)


def test_on_policy_gradient_is_reinforce():
    new, _, _, advantages, mask = by_hand()
    policy_loss(new, new.detach(), new.detach(), advantages, mask, total_tokens=5).loss.backward()
    torch.testing.assert_close(new.grad, -advantages / 5)


def test_clip_epsilon_is_used():
    new, old, behaviour, advantages, mask = by_hand()
    wide = policy_loss(new, old, behaviour, advantages, mask, total_tokens=10, clip_epsilon=0.6)
    assert wide.clip_fraction.item() == 0.0
    assert wide.loss.item() == pytest.approx(-(2 + 1.5 - 0.75 - 1 + 3) / 10)


def test_clip_higher_by_hand():
    # With 0.6 above, token 2 counts with 1.5; below, tokens 3 and 4 are clipped as before.
    result = policy_loss(*by_hand(), total_tokens=10, clip_epsilon_high=0.6)
    assert result.loss.item() == pytest.approx(-(2 + 1.5 - 0.8 - 1.6 + 3) / 10)
    assert result.clip_fraction.item() == pytest.approx(0.2)


def test_dual_clip_by_hand():
    """Ratios 5, 5 and 2, advantages -1, 1 and -1: at least 3 * A where A < 0; the gradient ends there."""
    new = log(0.5, 0.5, 0.2).requires_grad_()
    old = log(0.1, 0.1, 0.1)
    advantages = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    arguments = (new, old, new.detach(), advantages, torch.ones(3))
    unbounded = policy_loss(*arguments, total_tokens=3)
    assert unbounded.loss.item() == pytest.approx(-(-5 + 1.2 - 2) / 3)
    result = policy_loss(*arguments, total_tokens=3, dual_clip=3.0)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-(-3 + 1.2 - 2) / 3)
    assert result.clip_fraction.item() == pytest.approx(2 / 3)
    torch.testing.assert_close(new.grad, torch.tensor([0.0, 0.0, 2 / 3], dtype=torch.float64))


def test_truncated_importance_sampling_by_hand():
    """old / behaviour 1, 2/3, 1/3, 2, 1/4; ratios 1, 1.5, 1.5, 0.5, 2; clipped terms 2, 1.2, -1.5, -1.6, 3.6.

    With the cap of 1.5: 1 * 2 + 2/3 * 1.2 + 1/3 * -1.5 + 1.5 * -1.6 + 1/4 * 3.6 = 0.8
    """
    arguments = by_hand()
    result = policy_loss(*arguments, total_tokens=10, correction="weight", correction_cap=1.5)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-0.08)
    assert result.correction_mean.item() == pytest.approx((1 + 2 / 3 + 1 / 3 + 1.5 + 1 / 4) / 10)
    assert result.truncated_fraction.item() == pytest.approx(0.1)
    assert result.ratio_mean.item() == pytest.approx((1 + 1.5 + 1.5 + 0.5 + 2) / 10)
    # Tokens 1 and 3 are free: -weight * ratio * A / 10.
    expected = torch.tensor([-0.2, 0.0, 0.05, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(arguments[0].grad, expected)


def test_no_correction_does_not_look_at_the_sampler():
    new, old, behaviour, advantages, mask = by_hand()
    result = policy_loss(new, old, behaviour - 2.0, advantages, mask, total_tokens=10, correction="none")
    assert result.loss.item() == pytest.approx(-(2 + 1.2 - 1.5 - 1.6 + 3.6) / 10)
    assert (result.correction_mean.item(), result.truncated_fraction.item()) == (0.5, 0.0)


def test_the_papers_cap_counts_no_rounding():
    new, old, _, advantages, mask = by_hand()
    behaviour = new.detach() - torch.tensor([1e-6, -1e-6, 1e-5, 0.5, 0.0])
    result = policy_loss(new, old, behaviour, advantages, mask, total_tokens=5)
    assert result.truncated_fraction.item() == pytest.approx(0.2)


def test_kl_loss_by_hand():
    # d = log 2 and 0: k3 = 1/2 - 1 + log 2 and 0, gradient 1 - e^-d = 1/2 and 0; the mini-batch has 4 tokens.
    new, reference = log(0.4, 0.3).requires_grad_(), log(0.2, 0.3)
    loss = kl_loss(new, reference, torch.ones(2), total_tokens=4)
    loss.backward()
    assert loss.item() == pytest.approx((math.log(2) - 0.5) / 4)
    torch.testing.assert_close(new.grad, torch.tensor([0.125, 0.0], dtype=torch.float64))


def test_kl_loss_stays_finite_and_checks_shapes():
    new = torch.tensor([-900.0], requires_grad=True)
    kl_loss(new, torch.zeros(1), torch.ones(1), total_tokens=1).backward()
    assert torch.isfinite(new.grad).all()
    with pytest.raises(ValueError, match=r"'reference_logprobs': \(3,\)"):
        kl_loss(torch.zeros(2), torch.zeros(3), torch.zeros(2), total_tokens=2)


def test_huge_ratios_stay_finite():
    new = torch.tensor([0.0, 0.0], requires_grad=True)
    result = policy_loss(
        new,
        torch.tensor([-1e3, -1e3]),
        torch.zeros(2),
        torch.tensor([1.0, -1.0]),
        torch.ones(2),
        total_tokens=2,
    )
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert torch.isfinite(new.grad).all()


def test_value_loss_by_hand():
    # V_old = 0, R = 1, clip 0.2.
    # V = 0.5:  max(0.25, (0.2 - 1)^2 = 0.64) / 2 = 0.32, clipped, no gradient
    # V = 0.1:  0.81 / 2 = 0.405, gradient (0.1 - 1) / 4
    # V = -0.5: max(2.25, (-0.2 - 1)^2 = 1.44) / 2 = 1.125, gradient (-0.5 - 1) / 4
    values = torch.tensor([0.5, 0.1, -0.5], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(3, dtype=torch.float64)
    result = value_loss(values, zero, zero + 1, torch.ones(3), total_turns=4)
    result.loss.backward()
    assert result.loss.item() == pytest.approx((0.32 + 0.405 + 1.125) / 4)
    assert result.clip_fraction.item() == pytest.approx(0.25)
    assert result.absolute_error.item() == pytest.approx((0.5 + 0.9 + 1.5) / 4)
    torch.testing.assert_close(values.grad, torch.tensor([0.0, -0.225, -0.375], dtype=torch.float64))


def test_shapes_are_checked_first():
    two, three = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"'advantages': \(3,\)"):
        policy_loss(two, two, two, three, two, total_tokens=2)
    with pytest.raises(ValueError, match="one-dimensional"):
        value_loss(*(torch.zeros(2, 2),) * 4, total_turns=2)
    with pytest.raises(ValueError, match="total_tokens is 0"):
        policy_loss(two, two, two, two, two, total_tokens=0)
    with pytest.raises(ValueError, match="total_turns is 0"):
        value_loss(two, two, two, two, total_turns=0)


def test_no_tokens_in_this_micro_batch():
    none = torch.zeros(0, requires_grad=True)
    policy_loss(none, none, none, none, none, total_tokens=3).loss.backward()
    assert value_loss(none, none, none, none, total_turns=3).loss.item() == 0.0


finite = st.floats(-3, 3)
rows = st.lists(st.tuples(finite, finite, finite, finite, st.booleans()), min_size=1, max_size=12)


def columns(table):
    *numbers, mask = zip(*table, strict=True)
    tensors = [torch.tensor(column, dtype=torch.float64) for column in numbers]
    return *tensors, torch.tensor(mask)


def policy(table, total):
    new, *rest = columns(table)
    new.requires_grad_()
    loss = policy_loss(new, *rest, total_tokens=total).loss
    return loss.detach(), torch.autograd.grad(loss, new)[0]


def value(table, total):
    values, old, returns, _, mask = columns(table)
    values.requires_grad_()
    loss = value_loss(values, old, returns, mask, total_turns=total).loss
    return loss.detach(), torch.autograd.grad(loss, values)[0]


def with_every_bound(table, total):
    new, *rest = columns(table)
    new.requires_grad_()
    bounds = {"clip_epsilon_high": 0.4, "dual_clip": 2.0, "correction": "weight", "correction_cap": 1.5}
    loss = policy_loss(new, *rest, total_tokens=total, **bounds).loss
    return loss.detach(), torch.autograd.grad(loss, new)[0]


def divergence(table, total):
    new, reference, _, _, mask = columns(table)
    new.requires_grad_()
    loss = kl_loss(new, reference, mask, total_tokens=total)
    return loss.detach(), torch.autograd.grad(loss, new)[0]


either = pytest.mark.parametrize("both", [policy, value, with_every_bound, divergence])


@either
@settings(deadline=None)
@given(table=rows, junk=st.sampled_from([0.0, 50.0, -1e4, math.nan, math.inf]))
def test_masked_entries_never_matter(both, table, junk):
    spoiled = [row if row[4] else (junk,) * 4 + (False,) for row in table]
    for clean, other in zip(both(table, 7), both(spoiled, 7), strict=True):
        assert torch.equal(clean, other)
    gradient = both(spoiled, 7)[1]
    assert not gradient[~columns(table)[4]].any()


@either
@settings(deadline=None)
@given(table=rows, padding=st.integers(1, 5))
def test_padding_never_matters(both, table, padding):
    padded = table + [(1.0, 2.0, 3.0, 4.0, False)] * padding
    (loss, gradient), (padded_loss, padded_gradient) = both(table, 7), both(padded, 7)
    torch.testing.assert_close(padded_loss, loss)
    torch.testing.assert_close(padded_gradient[: len(table)], gradient)


@either
@settings(deadline=None)
@given(table=rows, data=st.data())
def test_order_never_matters(both, table, data):
    order = data.draw(st.permutations(range(len(table))))
    (loss, gradient), (mixed_loss, mixed_gradient) = both(table, 7), both([table[i] for i in order], 7)
    torch.testing.assert_close(mixed_loss, loss)
    torch.testing.assert_close(mixed_gradient, gradient[list(order)])


@either
@settings(deadline=None)
@given(table=rows, cut=st.integers(0, 12))
def test_micro_batch_split_never_matters(both, table, cut):
    parts = [part for part in (table[:cut], table[cut:]) if part]
    loss, gradient = both(table, len(table))
    split = [both(part, len(table)) for part in parts]
    torch.testing.assert_close(sum(part[0] for part in split), loss)
    torch.testing.assert_close(torch.cat([part[1] for part in split]), gradient)
