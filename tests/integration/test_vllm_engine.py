"""The embedded engine on this machine's processor, in float32: exact to 1e-4, tied embeddings too."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from rlef_lightning.generation import VLLMEngine

from .engine_checks import check_engine, tiny_folder

pytestmark = pytest.mark.slow


def _check(folder: str) -> None:
    engine = VLLMEngine(dtype="float32", max_context_tokens=128, max_sequences=32, enforce_eager=True)
    check_engine(engine, Path(folder), tolerance=1e-4)
    engine.close()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_engine_agrees_with_transformers(tmp_path: Path, tied: bool) -> None:
    # A process of its own: vLLM leaves a process group behind that another engine would meet.
    folder = tiny_folder(tmp_path / "model", tied=tied)
    process = multiprocessing.get_context("spawn").Process(target=_check, args=(str(folder),))
    process.start()
    process.join(timeout=200)
    assert process.exitcode == 0
