"""Where the engine is the one on a CPU. Where there is a GPU vLLM takes it, and tests/gpu are the tests."""

from __future__ import annotations

import pytest
import torch

CPU_ENGINE = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="vLLM would take the GPU: no weights are packed there, nothing may be forked, each rank needs one",
)
"""For tests of what only the engine on a CPU does, or of several ranks with an engine on one machine."""
