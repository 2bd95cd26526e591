"""What a rank takes of its host's memory while it builds a network: its shards, and one tensor's rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, LlamaConfig

from rlef_lightning.models import reading
from rlef_lightning.models.building import Place, build_policy
from tests.two_ranks import on_two_ranks

MIB = 1 << 20
SLACK_BYTES = 12 * MIB
"""Python's own objects, and what the allocator keeps."""


def anonymous_bytes() -> int:
    """This process's own memory; pages of mapped files are the kernel's, which takes them back at need."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10


def model_folder(path: Path, vocabulary: int, layers: int = 4) -> str:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=512, intermediate_size=1376, num_hidden_layers=layers,
        num_attention_heads=8,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return str(path)


def taken(rank: int, small: str, large: str) -> None:
    mesh = init_device_mesh("cpu", (2,))
    build_policy(small, Place(mesh=mesh))  # imports and buffers of a first time
    before, seen, rows = anonymous_bytes(), [], reading.Folder.rows

    def watched(self: reading.Folder, name: str, part: tuple[slice, ...]) -> torch.Tensor:
        tensor = rows(self, name, part)
        seen.append((anonymous_bytes() - before, tensor.nbytes))
        return tensor

    reading.Folder.rows = watched  # type: ignore[method-assign]
    policy = build_policy(large, Place(mesh=mesh))
    shards = sum(weight.to_local().nbytes for weight in policy.parameters())
    whole = sum(weight.nbytes for weight in policy.parameters())
    largest = max(size for _, size in seen)
    peak = max(*(taken for taken, _ in seen), anonymous_bytes() - before)
    assert shards < 0.51 * whole
    # Shards may lie where earlier work has left memory free; a peak far below them would be no measurement.
    assert 0.5 * shards < peak < shards + largest + SLACK_BYTES < 0.8 * whole


@pytest.mark.slow
def test_the_peak_is_the_shards_and_the_rows_of_one_tensor(tmp_path: Path) -> None:
    folders = model_folder(tmp_path / "small", 64), model_folder(tmp_path / "large", 32_000)
    on_two_ranks(taken, *folders)
