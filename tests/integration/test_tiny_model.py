"""The tiny model's builder: the same seed gives the same bytes; the shipped folder fits the code."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from .commands import MODEL, ROOT, TINY, environment

SMALL_BUILD = """
import sys
from pathlib import Path
from tools.tiny_model.build import HABIT, SKILL, Phase, build
phases = (
    Phase(manner=SKILL, dialogues=150, steps=20, learning_rate=3e-3),
    Phase(manner=HABIT, dialogues=80, steps=10, learning_rate=5e-4),
)
build(Path(sys.argv[1]), seed=int(sys.argv[2]), phases=phases)
"""


def built(folder: Path, seed: int) -> dict[str, str]:
    """Digest of every file of a small build, made in a process of its own."""
    subprocess.run(
        [sys.executable, "-c", SMALL_BUILD, str(folder), str(seed)], cwd=ROOT, env=environment(), check=True
    )
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = built(tmp_path / "first", 0), built(tmp_path / "second", 0)
    assert first == second
    assert built(tmp_path / "other", 1)["model.safetensors"] != first["model.safetensors"]


def test_shipped_folder_is_small_and_fits_the_config() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 5_000_000
    config = json.loads((MODEL / "config.json").read_text())
    with safe_open(str(MODEL / "model.safetensors"), "pt") as weights:
        assert list(weights.get_slice("lm_head.weight").get_shape()) == [config["vocab_size"], 128]
    context = yaml.safe_load(TINY.read_text())["data"]["engine"]["init_args"]["max_context_tokens"]
    assert context <= config["max_position_embeddings"]
