"""Bytes that are moved: by hand, and of the collectives of real passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlef_lightning.plan.batches import batches
from rlef_lightning.plan.shapes import Shapes, shapes
from rlef_lightning.plan.traffic import seconds, traffic
from tests.planned import ASKED, H100, LENGTHS


@pytest.fixture(scope="module")
def eight() -> Shapes:
    return shapes(ASKED.model_folder, 8)


def test_traffic_of_a_step(eight: Shapes) -> None:
    moved = traffic(ASKED, eight, batches(ASKED, LENGTHS), LENGTHS)
    trained = eight.policy.weights + eight.value.weights
    # 11 packs; weights in bfloat16 forwards and backwards, gradients in float32; 7 of 8 parts are others'
    assert moved.gather_per_step == pytest.approx(11 * 2 * 2 * trained * 7 / 8)
    assert moved.reduce_per_step == pytest.approx(11 * 4 * trained * 7 / 8)
    assert moved.sync_per_epoch == pytest.approx(4 * eight.policy.weights * 7 / 8)


def test_traffic_within_an_engine(eight: Shapes) -> None:
    four = replace(ASKED, engine={**ASKED.engine, "ranks_per_engine": 4})
    plan = batches(four, LENGTHS)
    # 2 engines with 512 episodes each. Of 2100 tokens: 2 sums for each of 32 layers, one of the embeddings,
    # 4096 numbers of 2 bytes, of which a ring brings 2 x 3/4; of 2 x 500 sampled ones 128256 logits, 3/4.
    sums, logits = 2 * 3 / 4 * 65 * 4096 * 2 * 2100, 3 / 4 * 128256 * 2 * 1000
    moved = traffic(four, eight, plan, LENGTHS)
    assert moved.engine_per_epoch == pytest.approx(512 * (sums + logits))
    alone = traffic(ASKED, eight, plan, LENGTHS)
    assert alone.engine_per_epoch == 0
    # By links within the node, of which 0.7 are had; between nodes at 50 GB/s.
    spent = seconds(four, eight, plan, moved, LENGTHS, H100).sampling
    silent = seconds(four, eight, plan, alone, LENGTHS, H100).sampling
    assert spent - silent == pytest.approx(moved.engine_per_epoch / (0.7 * 450e9))
