"""The engine gives its memory back while the trainer works, and has the right weights when it wakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlef_lightning.generation import VLLMEngine
from rlef_lightning.models.weights import engine_weights
from tests.integration.engine_checks import (
    STOP,
    assert_copies,
    expected_logprobs,
    largest_difference,
    shaken,
    tiny_folder,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]

PROBE = list(range(3, 60))


@pytest.mark.parametrize("level", [1, 2])
def test_sleep_frees_the_share_and_waking_takes_new_weights(tmp_path: Path, level: Any) -> None:
    folder = tiny_folder(tmp_path / "model", tied=False)
    engine = VLLMEngine(
        max_context_tokens=128,
        max_sequences=32,
        gpu_memory_utilization=0.2,
        enforce_eager=True,
        sleep_level=level,
    )
    engine.start(str(folder), [STOP])
    try:
        # The first sync is vLLM's reload; the others are copies into parameters that were asleep.
        for version in (1, 2, 3):
            _, total = torch.cuda.mem_get_info()
            engine.sleep()
            asleep, _ = torch.cuda.mem_get_info()
            model = shaken(folder, version)
            engine.sync_weights(engine_weights(model))
            awake, _ = torch.cuda.mem_get_info()
            # Nearly all of the engine's share is its cache.
            assert asleep - awake > 0.1 * total
            found = engine.prompt_logprobs([PROBE])[0]
            assert largest_difference(found, expected_logprobs(model, PROBE)) <= 5e-3
            assert engine.policy_version == version
        assert_copies(engine)
    finally:
        engine.close()
