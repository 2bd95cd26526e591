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
from rlef_lightning.ranks import Ranks
from tests.two_ranks import on_two_ranks

pytestmark = pytest.mark.slow

SCHEDULES = 200
LIMIT_S = 200.0
"""Time-out of the ranks; what hangs until then is found by `SOON_S`."""
SOON_S = 60.0


class LockstepCore:
    """Computes each step with the other rank, and sees at once when that one has other requests."""

    def __init__(self, fail_at_step: int | None = None) -> None:
        self.running: dict[str, int] = {}
        self.steps = 0
        self._fail_at_step = fail_at_step

    def add_request(self, request_id: str, prompt: Any, parameters: Any) -> None:
        self.running[request_id] = len(prompt)

    def abort_request(self, request_ids: list[str]) -> None:
        for name in request_ids:
            self.running.pop(name, None)

    def step(self) -> list[Any]:
        self.steps += 1
        if self.steps == self._fail_at_step:
            raise EngineError("out of memory")
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


def one_ends(rank: int, store: str, ending: int, how: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    ranks, (_, channel) = Ranks(LIMIT_S), engine_groups(2, LIMIT_S)
    if rank == ending and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    core = LockstepCore(fail_at_step=5 if rank == ending else None)
    # The one that fails raises its own error; the other one's collective breaks off, in gloo or the channel.
    with pytest.raises((EngineError, RankError, RuntimeError)):
        ranks.together(lambda: go_on(rank, core, channel), tell=False)
    Path(f"{store}.{rank}").touch()
    os._exit(0)  # threads of torch's own at times abort a process that ends in the usual way


def go_on(rank: int, core: LockstepCore, channel: Broadcast) -> None:
    """For ever, were it not for the other one."""
    if rank == 1:
        return follow(core, channel)
    leader = Leader(core, channel)
    return lead(leader, lambda: step_on(leader))


def step_on(leader: Leader) -> None:
    while True:
        leader.step()


@pytest.mark.parametrize("how", ["killed", "fails in a step"])
@pytest.mark.parametrize("ending", [0, 1])
def test_a_rank_that_ends_in_the_middle_ends_the_other(tmp_path: Path, ending: int, how: str) -> None:
    context = mp.get_context("spawn")
    store = str(tmp_path / "store")
    both = [context.Process(target=one_ends, args=(rank, store, ending, how)) for rank in range(2)]
    for process in both:
        process.start()
    both[ending].join(timeout=SOON_S)
    both[1 - ending].join(timeout=SOON_S)
    expected = [0, 0]
    if how == "killed":
        expected[ending] = -signal.SIGKILL
    assert [process.exitcode for process in both] == expected
    assert Path(f"{store}.{1 - ending}").exists()
