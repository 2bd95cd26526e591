"""The benchmark of training: both sides do the same work, and what is counted is counted right."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from rlef_lightning.learning.logprobs import token_logprobs
from rlef_lightning.plan.shapes import NOTHING, Network, Shapes
from tools.bench import chunks, mfu, train
from tools.bench.updates import Turns, contest_turns, micro_turns, padded_batches, sample

ROOT = Path(__file__).parents[2]
SMALL = (
    "--rounds=1", "--episodes=6", "--minibatches=1", "--pack-tokens=2048", "--chunk-rounds=1",
    "--chunk-tokens=512", "--chunk-vocabulary=30000", "--chunk-hidden=32",
)  # fmt: skip


def test_lengths_are_as_stated() -> None:
    draw = Random(1)
    found = [contest_turns(draw, 1.0) for _ in range(4000)]
    assert sorted(one.prompt for one in found)[2000] == pytest.approx(450, rel=0.05)
    assert sorted(length for one in found for length in one.responses)[-1] == 2048
    assert sum(len(one.responses) for one in found) / 4000 == pytest.approx(0.35 + 0.3 + 1.5, rel=0.03)
    micro = [len(sample(micro_turns(draw), 9, draw).token_ids) for _ in range(1000)]
    assert (min(micro) >= 56, max(micro) <= 265) == (True, True)
    assert sum(micro) / 1000 == pytest.approx(148, rel=0.05)


def test_a_sample_has_its_turns() -> None:
    one = sample(Turns(prompt=3, responses=(2, 4), feedback=5), 9, Random(0))
    assert [(span.start, span.stop) for span in one.spans] == [(3, 5), (10, 14)]
    assert (len(one.token_ids), one.response_tokens) == (14, 6)


def test_padded_batches_read_the_right_places() -> None:
    samples = [sample(Turns(prompt=n, responses=(2,), feedback=0), 9, Random(n)) for n in (1, 4, 2)]
    first, second = padded_batches(samples, 2)
    assert first.token_ids.shape == (2, 6)
    assert first.mask.sum(1).tolist() == [3, 6]
    assert [place.tolist() for place in first.response_places] == [[0, 0, 1, 1], [0, 1, 3, 4]]
    assert [place.tolist() for place in first.value_places] == [[0, 1], [0, 3]]
    assert second.token_ids.tolist() == [list(samples[2].token_ids)]


def test_waste_of_what_keeps_step() -> None:
    # On 2 ranks: 8 and 5 tokens, or 8 and 5 + 3 in packs of 8. Of 3 samples a third pass is for nothing.
    samples = [sample(Turns(prompt=n - 1, responses=(1,), feedback=0), 9, Random(n)) for n in (8, 5, 3)]
    found = train.waste(samples, 1, 8)
    assert found["unfilled"] == 0.0
    # Of 8 ranks five have nothing but the shortest sample of 3 tokens, which does not count: 15 of 31.
    assert found["padding_waste"] == pytest.approx(15 / 31)
    # On 8 ranks 8 + 5 + 3 + 5 x 3 tokens: 8 on the fullest, 31 / 8 in the mean.
    assert found["rank_imbalance"] == pytest.approx(8 / (31 / 8) - 1)


def test_dialogues_in_packs_waste_nothing_to_speak_of() -> None:
    # The benchmark's own sizes, the worst of 1, 2 and 8 ranks; nothing of it is timed.
    samples = train.samples_like("contests", 128)
    assert train.waste(samples, minibatches=2, pack_tokens=8192)["padding_waste"] < 0.02


@pytest.mark.slow
def test_chunks_take_a_twelfth_of_the_memory_at_most() -> None:
    # Full logits are 4096 x 50,000 numbers of 4 bytes, 781 MiB, and three tensors of them. A chunk is 128 MiB
    # and there is one; with the entropy, which updates leave out, there would be two: 1/9.
    sizes = argparse.Namespace(chunk_tokens=4096, chunk_vocabulary=50_000, chunk_hidden=32, chunk_rounds=1)
    found = train.chunked(sizes)
    if found["chunk_tokens_measured"] < 4096:
        pytest.skip("full logits of 3 GiB do not fit into the free memory here")
    assert found["chunked_memory_ratio"] <= 1 / 12


def test_tokens_are_halved_until_they_fit() -> None:
    bytes_of = 4 * train.FULL_TENSORS * 1000
    fixed = train.SPARE_BYTES + 4 * 3 * 1000 * 10
    assert train.fitting_tokens(800, 1000, 10, int(fixed + 800 * bytes_of) + 1) == 800
    assert train.fitting_tokens(800, 1000, 10, int(fixed + 799 * bytes_of)) == 400


def test_chunks_and_full_logits_say_the_same() -> None:
    inputs = chunks.inputs(40, 50, 8)
    torch.testing.assert_close(chunks.chunked(*inputs), chunks.full(*inputs))


def test_chunks_are_computed_as_in_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return token_logprobs(*arguments, **options)

    monkeypatch.setattr(chunks, "token_logprobs", noted)
    chunks.chunked(*chunks.inputs(40, 50, 8))
    assert [options["with_entropy"] for options in asked] == [False]  # see updating.py


def test_operations_by_hand() -> None:
    # Two layers of 10 weights, an output layer of 7 x 4, one head of 5; 6 tokens of which 2 are responses.
    size = {"weights": 100, "shard": 100, "trained": 100, "trained_weights": 100}
    network = Network(**size, layer=10, embeddings=28, root=28, root_shard=28, root_trained=28)
    sizes = Shapes(
        policy=network, reference=network, value=NOTHING, layers=2, hidden=4, intermediate=8, heads=1,
        key_value_heads=1, head_size=5, vocabulary=7, context=9,
    )  # fmt: skip
    one = sample(Turns(prompt=4, responses=(2,), feedback=0), 7, Random(0))
    layers, head, attention = 2 * 2 * 10 * 6, 7 * 4 * 2, 2 * 2 * 36 * 5
    assert mfu.count(sizes, [one]) == 6 * (layers + head + attention)


def last_line(*arguments: str) -> dict[str, Any]:
    """What the benchmark prints last."""
    command = [sys.executable, "tools/bench/train.py", "--json", *SMALL, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_the_benchmark_prints_all_its_numbers() -> None:
    found = last_line()
    for name in ("padded_ratio", "two_rank_ratio", "chunked_memory_ratio", "chunked_time_ratio"):
        assert found[name] > 0
    assert found["padded_positions"] > 1
    assert found["chunked_memory_ratio"] < 1
    assert 0 <= found["padding_waste"] < 1
    if found["mfu_device"] == "cpu":
        assert found["mfu"] is found["peak_over_plan"] is None
    assert found["mfu_tflops_per_step"] > 0
    assert found["planned_gib"] > 0
