"""Packs on an NVIDIA GPU: torch's variable-length kernel, against each sequence by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlef_lightning.models import attention
from rlef_lightning.models.attention import packed_arguments, packed_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]

LENGTHS = (70, 1, 129, 256, 8)


def drawn(dtype: torch.dtype, heads: int, key_value_heads: int) -> list[torch.Tensor]:
    """Queries, keys and values of all sequences end to end, as transformers hands them over."""
    draw = torch.Generator("cuda").manual_seed(0)
    return [
        torch.randn(1, sum(LENGTHS), count, 64, generator=draw, device="cuda").to(dtype).transpose(1, 2)
        for count in (heads, key_value_heads, key_value_heads)
    ]


def attended(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Output and gradients of queries, keys and values."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    ends = torch.tensor([0, *LENGTHS], device="cuda").cumsum(0, dtype=torch.int32)
    arguments = packed_arguments(ends, max(LENGTHS))
    output, _ = packed_attention(torch.nn.Module(), *leaves, None, **arguments)
    weights = torch.linspace(-1, 1, output.numel(), device="cuda").view_as(output)
    gradients = torch.autograd.grad((output.float() * weights).sum(), leaves)
    return output, *gradients


@pytest.mark.parametrize("heads", [(4, 4), (8, 2)], ids=["as-many-keys", "grouped"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_agrees_with_one_by_one(
    monkeypatch: pytest.MonkeyPatch, heads: tuple[int, int], dtype: torch.dtype
) -> None:
    kernel, knows_gqa = attention._kernel()
    calls = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(options)
        return kernel(*arguments, **options)

    monkeypatch.setattr(attention, "_kernel", lambda: (counted, knows_gqa))
    inputs = drawn(dtype, *heads)
    found = attended(inputs)
    assert len(calls) == 1
    # In float32 no kernel of variable length fits: the loop over sequences.
    wanted = attended([tensor.float() for tensor in inputs])
    assert len(calls) == 1
    for ours, exact in zip(found, wanted, strict=True):
        # Half precision has 8 to 11 bits; gradients are sums over up to 256 places.
        error = (ours.float() - exact).norm() / exact.norm()
        assert error < 0.01
