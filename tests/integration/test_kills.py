"""A run that is killed ten times, wherever it stands, ends exactly where an undisturbed one ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from rlef_lightning.rollout import read_episodes

from .commands import LAST, ROOT, curve, environment
from .cpu_engine import CPU_ENGINE
from .warm_fits import NAME

pytestmark = [pytest.mark.slow, CPU_ENGINE]

KILLS = 10
"""With two of them at a checkpoint at most two of the three epochs are past before the last one."""
READ_BACK = re.compile(r"(\d+) of (\d+) episodes are read back from ")


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    seed = Random().randrange(1 << 32)
    print(f"moments of the kills: seed {seed}")  # shown where the test fails
    line = [sys.executable, "-m", NAME, str(tmp_path), str(seed), str(KILLS)]
    done = subprocess.run(
        line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=540
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["ends"] == [0, *[-9] * KILLS, 0], logs(tmp_path)[-4000:]
    assert set(found["phases"]) == {"collecting", "scoring", "training", "evaluating", "checkpoint"}
    assert found["left_behind"] == 0
    assert curve(killed) == curve(whole)
    assert equal_weights(killed, whole)
    assert stored(killed) == stored(whole)
    read_back = [(int(count), int(asked)) for count, asked in READ_BACK.findall(logs(killed))]
    assert any(0 < count < asked for count, asked in read_back), "no run has completed a collection"
    # Nothing was sampled twice: every kill left at least what there was before.
    assert found["stored"] == sorted(found["stored"])
    assert not list(killed.rglob("*.replaced"))


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.rglob("log_*.txt")))


def equal_weights(ours: Path, theirs: Path) -> bool:
    one, other = (torch.load(folder / LAST, weights_only=False)["state_dict"] for folder in (ours, theirs))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stored(folder: Path) -> dict[str, set[object]]:
    """What was sampled, by file: all of it but the clock's part, token by token, bit by bit."""
    return {
        path.name: {
            (
                episode.problem_id,
                episode.sample_index,
                episode.seed,
                episode.solved,
                *((turn.prompt_token_ids, turn.completion.logprobs) for turn in episode.turns),
                *(turn.completion.token_ids for turn in episode.turns),
            )
            for episode in read_episodes(path)
        }
        for path in (folder / "runs/tiny/episodes").glob("*.jsonl")
    }
