"""New weights for the engine: a sync or a proof that hangs ends the process, on whatever rank."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import sys, time
from types import SimpleNamespace
from torch import zeros
from rlef_lightning.ranks import Ranks
from rlef_lightning.syncing import sync

def hang(*given): time.sleep(100)

engine = SimpleNamespace(
    sync_weights=lambda weights: list(weights), prompt_logprobs=lambda probe: [[-1.0]] * len(probe)
)
trained = SimpleNamespace(
    engine_weights=lambda: iter([("a", zeros(1))]), sequence_logprobs=lambda probe: [[-1.0]] * len(probe)
)
class Tokenizer:
    all_special_ids = [0]
    def __len__(self): return 64
owner = engine if hasattr(engine, sys.argv[1]) else trained
setattr(owner, sys.argv[1], hang)
sync(engine, trained, Tokenizer(), 1e-4, Ranks(alone=True), 5.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stuck", "work"),
    [
        ("sync_weights", "weight sync"),
        ("engine_weights", "weight sync"),
        ("prompt_logprobs", "proof after a weight sync"),
        ("sequence_logprobs", "proof after a weight sync"),
    ],
)
def test_what_hangs_ends_the_process_with_an_error(stuck: str, work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, stuck], capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 1
    said = f"rlef: error: the {work} has not ended within 5 s (data.pace.max_engine_silence_s);"
    assert done.stderr.startswith(said)
    assert "in hang" in done.stderr  # where it hangs
