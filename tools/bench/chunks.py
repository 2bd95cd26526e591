"""Log-probabilities, forward and backward, once: full logits or in chunks. One JSON line.

    python -m tools.bench.chunks full|chunked TOKENS VOCABULARY HIDDEN

In a process of its own, so that its peak memory is that of this work alone. Updates need no entropy, so
neither side computes it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from rlef_lightning.learning.logprobs import chunk_rows, token_logprobs

WARM_TOKENS = 32


def full(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The plain way: all logits at once."""
    return torch.log_softmax(hidden @ weight.T, -1).gather(-1, targets[:, None]).squeeze(-1)


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As in updates."""
    rows = chunk_rows(len(weight), hidden.device.type)
    return token_logprobs(hidden, weight, targets, chunk_tokens=rows, with_entropy=False)[0]


def inputs(tokens: int, vocabulary: int, hidden_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Float32, with gradients: hidden [R, H], weight [V, H], targets [R]."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, generator=draw).requires_grad_()
    weight = (torch.randn(vocabulary, hidden_size, generator=draw) / hidden_size**0.5).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=draw)


def peak_bytes() -> int:
    """Most resident memory since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


def measure(kind: str, tokens: int, vocabulary: int, hidden_size: int) -> dict[str, float]:
    """Seconds, CPU seconds, and the growth of the process beyond inputs."""
    work = {"full": full, "chunked": chunked}[kind]
    hidden, weight, targets = inputs(tokens, vocabulary, hidden_size)
    warm = hidden[:WARM_TOKENS].detach().requires_grad_()
    work(warm, weight.detach(), targets[:WARM_TOKENS]).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, began, cpu_began = peak_bytes(), time.perf_counter(), time.process_time()
    logprobs = work(hidden, weight, targets)
    (logprobs * torch.linspace(-1, 1, tokens)).sum().backward()
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu_began,
        "bytes": peak_bytes() - before,
        "checksum": float(logprobs.sum()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:5]))))
