"""Bytes that are moved: by hand, and of the collectives of real passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._python_dispatch import TorchDispatchMode

from rlef_lightning.learning.packing import PackedSequences, collate_sequences
from rlef_lightning.learning.samples import TokenSequence
from rlef_lightning.models.building import Place, build_policy, build_reference, build_value
from rlef_lightning.models.lora import Lora, WithoutAdapters
from rlef_lightning.models.networks import PolicyValueNetwork
from rlef_lightning.plan.asked import Asked
from rlef_lightning.plan.batches import batches
from rlef_lightning.plan.shapes import Shapes, fake_ranks, shapes
from rlef_lightning.plan.traffic import seconds, traffic
from rlef_lightning.scoring import Networks, logprobs_and_values, response_logprobs
from tests.planned import ASKED, H100, LENGTHS, small_folder

pytestmark = pytest.mark.slow

RANKS, PACKS = 4, 2


class Received(TorchDispatchMode):
    """Counts bytes that a ring brings to each rank: of all other ranks what this one gives, or keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = self.reduced = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call is torch.ops.c10d._allgather_base_.default:
            self.gathered += args[1].nbytes * (RANKS - 1)
        elif call is torch.ops.c10d._reduce_scatter_base_.default:
            self.reduced += args[0].nbytes * (RANKS - 1)
        else:
            assert "c10d" not in str(call), call
        return call(*args, **(kwargs or {}))


def networks_of(asked: Asked, mesh: DeviceMesh) -> Networks:
    """As the module builds them."""
    folder, compute = asked.model_folder, asked.compute_dtype
    dtype = None if compute is None else getattr(torch, compute)
    place = Place(mesh=mesh, compute=dtype, recompute=asked.recompute)
    base = getattr(torch, asked.reference_dtype)
    policy = build_policy(
        folder, place, torch.float32 if asked.lora is None else base,
        value_head=asked.value_network == "shared", lora=asked.lora,
    )  # fmt: skip
    frozen = replace(place, recompute=False)
    reference = WithoutAdapters(policy) if asked.lora else build_reference(folder, frozen, base)
    value = build_value(folder, place) if asked.value_network == "own" else None
    return Networks(policy=policy, reference=reference, value=value)


def packs() -> list[PackedSequences]:
    one = TokenSequence(token_ids=(3,) * 9, spans=((2, 9),))
    return [collate_sequences([one] * (1 + number)) for number in range(PACKS)]


def update(networks: Networks) -> None:
    """The backward passes of updating.py, of plain sums."""
    for pack in packs():
        if isinstance(networks.policy, PolicyValueNetwork):
            logprobs, _, values = logprobs_and_values(networks.policy, pack, 1.0, with_entropy=False)
            (logprobs.sum() + values.sum()).backward()
            continue
        response_logprobs(networks.policy, pack, 1.0, with_entropy=False)[0].sum().backward()
        if networks.value is not None:
            networks.value(pack).sum().backward()


@torch.no_grad()
def score(networks: Networks) -> None:
    """The passes of scoring.py."""
    for pack in packs():
        networks.policy_and_values(pack, 1.0)
        response_logprobs(networks.reference, pack, 1.0, with_entropy=False)


@pytest.mark.parametrize("value_network", ["own", "shared"])
@pytest.mark.parametrize("lora", [None, Lora(rank=3)])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtypes", [("float32", None), ("bfloat16", None), ("float32", "bfloat16")])
def test_planned_bytes_are_those_of_real_passes(
    tmp_path: Path, value_network: str, lora: Lora | None, recompute: bool, dtypes: tuple[str, str | None]
) -> None:
    # 61 rows of the tables, 37 of the MLP, 3 of the adapters: none of them is divided evenly by 4 ranks.
    reference_dtype, compute_dtype = dtypes
    asked = replace(
        ASKED, model_folder=small_folder(tmp_path, layers=3), devices=RANKS, reference_dtype=reference_dtype,
        compute_dtype=compute_dtype, recompute=recompute, value_network=value_network, lora=lora,
    )  # fmt: skip
    sizes = shapes(asked.model_folder, RANKS, values=value_network, lora=lora)
    plan = replace(batches(asked, LENGTHS), packs_per_rank=PACKS, packs_for_scoring=PACKS)
    planned = traffic(asked, sizes, plan, LENGTHS)
    with fake_ranks(RANKS) as mesh:
        networks = networks_of(asked, mesh)
        with Received() as updating:
            update(networks)
        with Received() as scoring:
            score(networks)
    assert updating.gathered == planned.gather_per_step
    assert updating.reduced == planned.reduce_per_step
    assert (scoring.gathered, scoring.reduced) == (planned.gather_for_scoring, 0)


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_are_gathered_with_the_root(tmp_path: Path, tied: bool) -> None:
    folder = small_folder(tmp_path, layers=1, tied=tied)
    sizes = shapes(folder, RANKS)
    # Of 61 rows of 24, rank 0 has 16; of the norm's 24 numbers, 6.
    assert sizes.policy.root_shard == 16 * 24 + 6
    assert (sizes.policy.embeddings, sizes.policy.root) == (0 if tied else 61 * 24, 61 * 24 + 24)
    asked = replace(ASKED, model_folder=folder, devices=RANKS)
    plan = replace(batches(asked, LENGTHS), packs_per_rank=PACKS)
    with fake_ranks(RANKS) as mesh:
        networks = networks_of(asked, mesh)
        with Received() as updating:
            update(networks)
    assert updating.gathered == traffic(asked, sizes, plan, LENGTHS).gather_per_step


@pytest.fixture(scope="module")
def eight() -> Shapes:
    return shapes(ASKED.model_folder, 8)


def test_traffic_of_a_step(eight: Shapes) -> None:
    moved = traffic(ASKED, eight, batches(ASKED, LENGTHS), LENGTHS)
    # 11 packs, 7 other ranks. Each has of 32 layers of 218,112,000 weights, two tables, a norm, of the value
    # network's only one table, a norm; rank 0 has its head, and the others fill up to that.
    table, norm, head = 128256 * 4096 // 8, 4096 // 8, 4096 + 1
    parts, root = 2 * (32 * 218_112_000 // 8 + table), table + norm + norm + head
    # In bfloat16: layers and embeddings forwards and backwards, the rest once.
    assert moved.gather_per_step == 11 * 7 * 2 * (2 * parts + root)
    assert moved.reduce_per_step == 11 * 7 * 4 * (parts + root)
    # 43 packs, forwards. The reference is as the policy; no root is given back until the end.
    scored = 3 * (32 * 218_112_000 // 8 + table)
    assert moved.gather_for_scoring == 7 * 2 * (43 * scored + root + table + norm)
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
