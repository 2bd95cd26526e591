"""The embedded engine on this machine's processor, in float32: exact to 1e-4, with tied embeddings and with
packed weights, too."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from rlef_lightning.generation import VLLMEngine, vllm_weights

from .cpu_engine import CPU_ENGINE
from .engine_checks import check_engine, tiny_folder

pytestmark = [pytest.mark.slow, CPU_ENGINE]


def _check(*folders: str) -> None:
    for folder, packed in ((folders[0], False), (folders[1], False), (folders[1], True)):
        vllm_weights.NARROW = 0 if packed else 192
        torch.set_num_threads(1)  # vLLM takes all cores; then it is up to them what is plain
        engine = VLLMEngine(dtype="float32", max_context_tokens=128, max_sequences=32, enforce_eager=True)
        check_engine(engine, Path(folder), tolerance=1e-4)
        # The first sync is vLLM's reload. The second and third are copies, but not into packed weights.
        assert engine._into is not None
        assert ("computes with packed weights" in engine._into.reason) == packed
        assert bool(engine._into.reason) == packed
        engine.close()
        assert not dist.is_initialized()  # else the next engine would meet this one's process group


def test_engines_agree_with_transformers_one_after_the_other(tmp_path: Path) -> None:
    folders = [str(tiny_folder(tmp_path / name, tied=name == "tied")) for name in ("untied", "tied")]
    # A process of its own: vLLM takes over torch's number of threads and sets variables for good.
    process = multiprocessing.get_context("spawn").Process(target=_check, args=folders)
    process.start()
    process.join(timeout=280)
    assert process.exitcode == 0
