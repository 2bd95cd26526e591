"""The embedded engine on an NVIDIA GPU, by the same class as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlef_lightning.generation import VLLMEngine
from tests.integration.engine_checks import assert_copies, check_engine, tiny_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]


# The GPU's float32 products may be rounded to TF32's 10 bits: 1e-3 of logits of size 1. bfloat16 has 8.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-3), ("bfloat16", 1e-1)])
@pytest.mark.parametrize("tied", [False, True])
def test_engine_agrees_with_transformers(tmp_path: Path, dtype: Any, tolerance: float, tied: bool) -> None:
    engine = VLLMEngine(
        dtype=dtype,
        max_context_tokens=128,
        max_sequences=32,
        gpu_memory_utilization=0.1,
        enforce_eager=True,
    )
    check_engine(engine, tiny_folder(tmp_path / "model", tied=tied), tolerance)
    assert_copies(engine)
    engine.close()
