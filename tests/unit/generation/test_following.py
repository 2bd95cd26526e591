"""The leader's calls reach every follower in the same order, whatever the schedule; faults end both."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.errors import EngineError, RankError
from rlef_lightning.generation.following import Leader, Orders, digest, follow, lead


@dataclass
class NotingCore:
    """Fulfils `Core`: requests end after as many steps as their prompt is long; notes what is asked of it."""

    token: int = 1
    calls: list[Any] = field(default_factory=list)
    running: dict[str, list[int]] = field(default_factory=dict)

    def add_request(self, request_id: str, prompt: Any, parameters: Any) -> None:
        if not prompt:
            raise ValueError("an empty prompt")
        self.calls.append(("add", request_id, prompt, parameters))
        self.running[request_id] = list(prompt)

    def abort_request(self, request_ids: list[str]) -> None:
        self.calls.append(("abort", request_ids))
        for name in request_ids:
            self.running.pop(name, None)

    def step(self) -> list[Any]:
        self.calls.append(("step", sorted(self.running)))
        outputs = []
        for name, left in list(self.running.items()):
            left.pop()
            ids = [self.token] * (10 - len(left))
            outputs.append(SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=ids)]))
            if not left:
                del self.running[name]
        return outputs


class Wire:
    """Fulfils `Channel`: keeps the messages, as bytes, for a follower that comes later."""

    def __init__(self) -> None:
        self.sent: deque[bytes] = deque()

    def send(self, orders: Orders) -> None:
        self.sent.append(pickle.dumps(orders))

    def receive(self) -> Orders:
        orders: Orders = pickle.loads(self.sent.popleft())
        return orders


def random_schedule(leader: Leader, core: NotingCore, draw: Random) -> None:
    """Requests come while others run, some are aborted, and turns end unevenly."""
    for number in range(draw.randrange(12)):
        leader.add_request(str(number), [7] * draw.randint(1, 5), draw.random())
        while draw.random() < 0.6:
            leader.step()
        if draw.random() < 0.2 and core.running:
            leader.abort_request([draw.choice(sorted(core.running))])
    while core.running:
        leader.step()


@given(seed=st.integers(0, 10_000))
def test_a_follower_does_what_its_leader_does(seed: int) -> None:
    first, second, wire = NotingCore(), NotingCore(), Wire()
    leader = Leader(first, wire)
    lead(leader, lambda: random_schedule(leader, first, Random(seed)))
    follow(second, wire)
    assert second.calls == first.calls
    assert not wire.sent
    steps = sum(call[0] == "step" for call in first.calls)
    assert steps == sum(call[0] == "step" for call in second.calls)


def test_one_message_a_step_and_one_at_the_end() -> None:
    core, wire = NotingCore(), Wire()
    leader = Leader(core, wire)
    for name in "abc":
        leader.add_request(name, [7, 7], None)
    leader.step()
    leader.step()
    leader.end()
    assert len(wire.sent) == 3


def test_what_the_leader_refuses_is_not_handed_on() -> None:
    core, wire = NotingCore(), Wire()
    leader = Leader(core, wire)
    with pytest.raises(ValueError, match="empty prompt"):
        leader.add_request("a", [], None)
    leader.end()
    assert pickle.loads(wire.sent[0]).calls == ()


def fail() -> None:
    raise EngineError("out of memory")


def test_a_leader_that_fails_sends_its_followers_home_with_the_reason() -> None:
    wire = Wire()
    with pytest.raises(EngineError, match="out of memory"):
        lead(Leader(NotingCore(), wire), fail)
    with pytest.raises(RankError, match="leads this engine failed: EngineError: out of memory"):
        follow(NotingCore(), wire)


def test_a_leader_that_fails_in_a_step_does_not_wait_for_its_followers() -> None:
    core, wire = NotingCore(), Wire()
    leader = Leader(core, wire)
    leader.step()
    core.step = fail  # type: ignore[method-assign,assignment]
    with pytest.raises(EngineError, match="out of memory"):
        lead(leader, leader.step)
    assert len(wire.sent) == 2  # one for each step; the followers stand in the second


def test_a_follower_that_samples_other_tokens_says_so_before_the_next_step() -> None:
    first, other, wire = NotingCore(), NotingCore(token=2), Wire()
    leader = Leader(first, wire)
    leader.add_request("a", [7] * 3, None)
    leader.step()
    leader.step()
    with pytest.raises(EngineError, match="sampled different tokens"):
        follow(other, wire)
    assert [call[0] for call in other.calls] == ["add", "step"]


def test_followers_that_are_gone_do_not_hide_the_leaders_own_failure() -> None:
    def gone(orders: Orders) -> None:
        raise RankError("a follower has ended")

    broken: Any = SimpleNamespace(send=gone)
    with pytest.raises(EngineError, match="out of memory"):
        lead(Leader(NotingCore(), broken), fail)
    with pytest.raises(RankError, match="has ended"):
        lead(Leader(NotingCore(), broken), lambda: None)


def outputs(*rows: tuple[str, list[int]]) -> list[Any]:
    return [SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=ids)]) for name, ids in rows]


@pytest.mark.parametrize("other", [("b", [1, 2]), ("a", [1, 3]), ("a", [1]), ("a", [])])
def test_the_digest_sees_request_length_and_last_token(other: tuple[str, list[int]]) -> None:
    before = digest(outputs(("a", [1, 2])), 5)
    assert digest(outputs(("a", [1, 2])), 5) == before
    assert digest(outputs(other), 5) != before
    assert digest(outputs(("a", [1, 2])), 6) != before


def test_a_follower_that_hangs_in_a_step_ends_its_process() -> None:
    code = (
        "import time\n"
        "from types import SimpleNamespace\n"
        "from rlef_lightning.generation.following import Orders, follow\n"
        "def hang(): time.sleep(100)\n"
        "channel = SimpleNamespace(receive=lambda: Orders(calls=(), seen=0))\n"
        "follow(SimpleNamespace(step=hang), channel, 0.1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "rlef: error: a step of a tensor-parallel engine has not returned on a rank"
    )
    assert "within 0.1 s (data.engine.init_args.rank_timeout_s)" in done.stderr
    assert "in hang" in done.stderr  # where it hangs
