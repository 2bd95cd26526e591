import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlef_lightning.learning.logprobs import token_logprobs


def inputs(dtype=torch.float64, rows=7, size=5, vocabulary=11):
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, size, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, size, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (rows,), generator=g)


def full(hidden, weight, targets, temperature=1.0):
    every = torch.log_softmax(
        (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32)) / temperature, -1
    )
    return every.gather(-1, targets[:, None]).squeeze(-1), -(every.exp() * every).sum(-1)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_full_log_softmax(chunk, temperature):
    hidden, weight, targets = inputs()
    weights = torch.linspace(-1, 1, len(targets), dtype=torch.float64)
    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature, chunk)
    expected, expected_entropy = full(hidden, weight, targets, temperature)
    torch.testing.assert_close(logprobs, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, expected_entropy, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad((weights * logprobs).sum(), (hidden, weight))
    wanted = torch.autograd.grad((weights * expected).sum(), (hidden, weight))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradcheck():
    hidden, weight, targets = inputs()
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, targets, 0.8, 2)[0], (hidden, weight))


def test_entropy_has_no_gradient():
    logprobs, entropy = token_logprobs(*inputs())
    assert logprobs.requires_grad
    assert not entropy.requires_grad


def test_half_precision_sums_in_float32():
    hidden, weight, targets = inputs(torch.bfloat16)
    logprobs, _ = token_logprobs(hidden, weight, targets, chunk_tokens=2)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, full(hidden, weight, targets)[0])
    logprobs.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_autocast_agrees_with_autocast_log_softmax():
    hidden, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs, _ = token_logprobs(hidden, weight, targets)
        expected, _ = full(hidden, weight, targets)
    torch.testing.assert_close(logprobs, expected)
    (gradient,) = torch.autograd.grad(logprobs.sum(), weight)
    assert gradient.dtype == torch.float32


def test_frozen_output_layer():
    hidden, weight, targets = inputs()
    logprobs, _ = token_logprobs(hidden, weight.detach(), targets)
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden)
    assert gradient.shape == hidden.shape


def test_no_tokens():
    hidden, weight, targets = inputs(rows=0)
    logprobs, entropy = token_logprobs(hidden, weight, targets)
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()
    assert not weight.grad.any()


class Largest(TorchDispatchMode):
    """Watches how many numbers the largest tensor has that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_logits_never_exist(dtype):
    hidden, weight, targets = inputs(dtype, rows=64)
    with Largest() as largest:
        token_logprobs(hidden, weight, targets, chunk_tokens=8)[0].sum().backward()
    assert largest.numbers == 64 * 5  # hidden; a chunk has 8 x 11 logits
    with Largest() as largest:
        full(hidden, weight, targets)
    assert largest.numbers == 64 * 11


def test_without_entropy_nothing_else_changes():
    hidden, weight, targets = inputs(torch.float32)
    wanted, _ = token_logprobs(hidden, weight, targets, 0.7, 3)
    found, entropy = token_logprobs(hidden, weight, targets, 0.7, 3, with_entropy=False)
    assert entropy.shape == (0,)
    assert torch.equal(found, wanted)
    for ours, theirs in zip(
        *(torch.autograd.grad(x.sum(), (hidden, weight)) for x in (found, wanted)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_wrong_shapes_and_numbers():
    hidden, weight, targets = inputs()
    with pytest.raises(ValueError, match=r"\[R, H\]"):
        token_logprobs(hidden[:, 1:], weight, targets)
    with pytest.raises(ValueError, match=r"target_ids must be \[7\]"):
        token_logprobs(hidden, weight, targets[1:])
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(hidden, weight, targets, temperature=0.0)
    with pytest.raises(ValueError, match="agree"):
        token_logprobs(hidden.float(), weight, targets)
