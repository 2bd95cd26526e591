"""Named weights, as they pass by on their way to the engine -> a digest that tells one policy from another.

Integer sums over the bits, on the device that holds them: exact, the same in any order of summation, and
without a copy to the host. Guards against mistakes, not against forgers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_CHUNK = 1 << 22
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class WeightsDigest:
    """Collects the digest of all weights that pass."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def watch(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same weights, one at a time."""
        for name, tensor in weights:
            self._hash.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {bits_sum(tensor)}\n".encode())
            yield name, tensor

    def hexdigest(self) -> str:
        """Of the weights that have passed so far."""
        return self._hash.hexdigest()


@torch.no_grad()
def bits_sum(tensor: Tensor) -> int:
    """Sum of every element's bits times an odd number of its place, modulo 2**64."""
    bits = tensor.detach().reshape(-1).contiguous().view(_INTEGERS[tensor.element_size()])
    total = 0
    for start in range(0, bits.numel(), _CHUNK):
        part = bits[start : start + _CHUNK].to(torch.int64)
        places = torch.arange(start, start + part.numel(), device=part.device)
        total += int((part * (2 * places + 1)).sum())
    return total % (1 << 64)
