"""A window of attention that is shorter than the episodes is noticed before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from rlef_lightning.errors import ConfigError
from rlef_lightning.models.assembly import Wanted, check_wanted
from rlef_lightning.models.windows import sliding_window

TINY = Path(__file__).parents[3] / "tools" / "tiny_model" / "model"
SIZE: dict[str, Any] = {"vocab_size": 512, "num_hidden_layers": 2}


def folder(path: Path, config: Any) -> str:
    """The tiny model's tokenizer with another config.json, and without weights."""
    shutil.copytree(TINY, path, ignore=shutil.ignore_patterns("*.safetensors"))
    config.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (MistralConfig(**SIZE, sliding_window=4096), 4096),
        (MistralConfig(**SIZE, sliding_window=None), None),
        (Qwen2Config(**SIZE, sliding_window=32), None),  # switched off, as in all published ones
        (Qwen2Config(**SIZE, sliding_window=32, use_sliding_window=True, max_window_layers=1), 32),
        (Qwen2Config(**SIZE, sliding_window=32, use_sliding_window=True, max_window_layers=2), None),
        (LlamaConfig(**SIZE), None),
    ],
)
def test_the_window_is_that_of_any_layer(config: Any, window: int | None, tmp_path: Path) -> None:
    assert sliding_window(folder(tmp_path / "model", config), "model.model_folder") == window


@pytest.mark.parametrize("network", ["model", "reference", "value"])
def test_episodes_beyond_a_window_are_refused(network: str, tmp_path: Path) -> None:
    short = folder(tmp_path / "short", MistralConfig(**SIZE, sliding_window=4096))
    wanted = Wanted(**({"model_folder": str(TINY)} | {f"{network}_folder": short}))
    check_wanted(wanted, offloads_reference=False, context_tokens=4096)
    with pytest.raises(ConfigError, match=r"max_context_tokens is 4097, .* window of 4096 tokens") as error:
        check_wanted(wanted, offloads_reference=False, context_tokens=4097)
    assert f"model.{network}_folder={short!r}" in str(error.value)
    sampled = Wanted(model_folder=short, trains=False)  # the engine computes windows
    check_wanted(sampled, offloads_reference=False, context_tokens=4097)
