"""Other weights have another digest."""

from __future__ import annotations

import pytest
import torch

from rlef_lightning.models import digest
from rlef_lightning.models.digest import WeightsDigest, bits_sum


def digest_of(**weights: torch.Tensor) -> str:
    watch = WeightsDigest()
    passed = dict(watch.watch(weights.items()))
    assert passed.keys() == weights.keys()
    assert all(passed[name] is weights[name] for name in weights)
    return watch.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_sum_of_bits_by_hand(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_CHUNK", 3)
    tensor = torch.tensor([[1.5, -2.0], [0.0, -0.0], [3e-7, 7.0]]).to(dtype)
    signed = tensor.flatten().view(
        {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    )
    expected = sum(int(bits) * (2 * place + 1) for place, bits in enumerate(signed))
    assert bits_sum(tensor) == expected % 2**64


def test_every_difference_shows() -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    nudged = base.clone()
    nudged[2, 1] = torch.nextafter(torch.tensor(9.0), torch.tensor(10.0))  # the last bit
    others = [
        digest_of(a=base.T.contiguous()),
        digest_of(a=base.flip(0)),
        digest_of(a=nudged),
        digest_of(b=base),
        digest_of(a=base.bfloat16()),
        digest_of(a=base, b=base),
        digest_of(),
    ]
    assert len({digest_of(a=base), *others}) == 8
    assert digest_of(a=base.T.contiguous().T) == digest_of(a=base)  # as it lies in memory does not matter
