"""Leader and follower in two processes: no schedule makes them wait for each other for ever."""

from __future__ import annotations

import os
import signal
import zlib
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rlef_lightning.errors import EngineError, RankError
from rlef_lightning.generation.following import Broadcast, Leader, engine_groups, follow, lead
from tests.two_ranks import on_two_ranks

pytestmark = pytest.mark.slow

SCHEDULES = 200


class LockstepCore:
    """Computes each step with the other rank, and sees at once when that one has other requests."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.steps = 0

    def add_request(self, request_id: str, prompt: Any, parameters: Any) -> None:
        self.running[request_id] = len(prompt)

    def abort_request(self, request_ids: list[str]) -> None:
        for name in request_ids:
            self.running.pop(name, None)

    def step(self) -> list[Any]:
        self.steps += 1
        own = zlib.crc32(repr(sorted(self.running.items())).encode())
        both = torch.tensor([own, -own])
        dist.all_reduce(both, op=dist.ReduceOp.MAX)
        assert both.tolist() == [own, -own]
        outputs = []
        for name, left in list(self.running.items()):
            outputs.append(SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=[7] * left)]))
            self.running[name] = left - 1
            if left == 1:
                del self.running[name]
        return outputs


def play(leader: Leader, core: LockstepCore, draw: Random) -> int:
    """Dialogues of one to five turns, some aborted; the programs between the turns take some steps' time."""
    turns_left = {f"{number}": draw.randint(1, 5) for number in range(draw.randint(0, 8))}
    while turns_left or core.running:
        for name in [name for name in turns_left if name not in core.running and draw.random() < 0.5]:
            leader.add_request(name, [7] * draw.randint(1, 6), None)
            turns_left[name] -= 1
            if not turns_left[name]:
                del turns_left[name]
        if core.running and draw.random() < 0.1:
            leader.abort_request([draw.choice(sorted(core.running))])
        if core.running:
            leader.step()
    return core.steps


def all_schedules(rank: int) -> None:
    first, channel = engine_groups(2, 30.0)
    assert first == 0
    taken = []
    for seed in range(SCHEDULES):
        core = LockstepCore()
        if rank == 0:
            leader, draw = Leader(core, channel), Random(seed)
            lead(leader, lambda leader=leader, core=core, draw=draw: play(leader, core, draw))  # type: ignore[misc]
        else:
            follow(core, channel)
        taken.append(core.steps)
    both: list[Any] = [None, None]
    dist.all_gather_object(both, taken)
    assert both[0] == both[1]
    assert len(set(taken)) > 10  # the schedules differ


def test_no_schedule_leaves_one_waiting() -> None:
    on_two_ranks(all_schedules)


def failing_leader(rank: int) -> None:
    _, channel = engine_groups(2, 30.0)

    def fail() -> None:
        raise EngineError("no room for the cache")

    if rank == 0:
        with pytest.raises(EngineError, match="no room"):
            lead(Leader(LockstepCore(), channel), fail)
    else:
        with pytest.raises(RankError, match="leads this engine failed: EngineError: no room"):
            follow(LockstepCore(), channel)


def test_a_failing_leader_takes_its_follower_along() -> None:
    on_two_ranks(failing_leader)


def one_dies(rank: int, store: str, dying: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    _, channel = engine_groups(2, 30.0)
    if rank == dying:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RankError, match="rank 0 leads a tensor-parallel engine: "):
        _go_on(rank, channel)
    Path(f"{store}.told").touch()


def _go_on(rank: int, channel: Broadcast) -> None:
    """For ever, were it not for the other one."""
    if rank == 1:
        return follow(LockstepCore(), channel)
    leader = Leader(SimpleNamespace(step=list), channel)  # type: ignore[arg-type]
    while True:
        leader.step()


@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_that_is_killed_ends_the_other(tmp_path: Path, dying: int) -> None:
    context = mp.get_context("spawn")
    store = str(tmp_path / "store")
    both = [context.Process(target=one_dies, args=(rank, store, dying)) for rank in range(2)]
    for process in both:
        process.start()
    both[1 - dying].join(timeout=100)
    both[dying].join(timeout=100)
    assert both[1 - dying].exitcode == 0
    assert both[dying].exitcode == -signal.SIGKILL
    assert Path(f"{store}.told").exists()
