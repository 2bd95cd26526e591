"""The embedded engine on this machine's processor, in float32: exact to 1e-4, tied embeddings too."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch.distributed as dist

from rlef_lightning.generation import VLLMEngine

from .engine_checks import check_engine, tiny_folder

pytestmark = pytest.mark.slow


def _check(*folders: str) -> None:
    for folder in folders:
        engine = VLLMEngine(dtype="float32", max_context_tokens=128, max_sequences=32, enforce_eager=True)
        check_engine(engine, Path(folder), tolerance=1e-4)
        engine.close()
        assert not dist.is_initialized()  # else the next engine would meet this one's process group


def test_engines_agree_with_transformers_one_after_the_other(tmp_path: Path) -> None:
    folders = [str(tiny_folder(tmp_path / name, tied=name == "tied")) for name in ("untied", "tied")]
    # A process of its own: vLLM takes over torch's number of threads and sets variables for good.
    process = multiprocessing.get_context("spawn").Process(target=_check, args=folders)
    process.start()
    process.join(timeout=200)
    assert process.exitcode == 0
