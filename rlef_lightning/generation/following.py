"""The leader's calls of an engine -> a channel -> the same calls, in the same order, on every follower.

A tensor-parallel engine computes each step on all of its ranks at once, so all of them must schedule the same
requests. One of them leads: it decides what is added and aborted and when a step is taken; one message a step
carries that to the others, however many turns its episodes take. It knows neither vLLM nor episodes.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch.distributed as dist

from rlef_lightning.errors import EngineError, RankError
from rlef_lightning.generation.guard import Guard

T = TypeVar("T")


class Core(Protocol):
    """What is called on every rank: a part of vLLM's LLMEngine."""

    def add_request(self, request_id: str, prompt: Any, parameters: Any) -> Any:
        """Queue a request."""

    def abort_request(self, request_ids: list[str]) -> Any:
        """Forget requests."""

    def step(self) -> Iterable[Any]:
        """Compute one step together with the other ranks; the outputs of its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """One message of the leader."""

    calls: tuple[tuple[str, tuple[Any, ...]], ...]
    """Methods of the core and their arguments, in order."""
    seen: int
    """Digest of all outputs of the leader before these calls."""
    ended: bool = False
    """The leader needs its followers no more."""
    failure: str = ""
    """Why it ended, if it failed."""


class Channel(Protocol):
    """From one leader to all of its followers."""

    def send(self, orders: Orders) -> None:
        """Hand on orders."""

    def receive(self) -> Orders:
        """The leader's next orders, once they come."""


class Leader:
    """The core on the rank that leads: the followers do what is done to it."""

    def __init__(self, core: Core, channel: Channel) -> None:
        self._core, self._channel = core, channel
        self._calls: list[tuple[str, tuple[Any, ...]]] = []
        self._seen = 0
        self._in_step = False

    def add_request(self, request_id: str, prompt: Any, parameters: Any) -> None:
        """Here at once; there before the next step. What is refused here is not handed on."""
        self._core.add_request(request_id, prompt, parameters)
        self._calls.append(("add_request", (request_id, prompt, parameters)))

    def abort_request(self, request_ids: list[str]) -> None:
        """Here at once; there before the next step, or at the end."""
        self._core.abort_request(request_ids)
        self._calls.append(("abort_request", (request_ids,)))

    def step(self) -> list[Any]:
        """One step on all ranks."""
        self._send()
        self._in_step = True
        outputs = list(self._core.step())
        self._in_step = False
        self._seen = digest(outputs, self._seen)
        return outputs

    def end(self, failure: str = "") -> None:
        """Send the followers home.

        After a step that failed here they may stand in the middle of it and hear nothing: then the end of
        this process is what ends them, and to wait for them would put it off.
        """
        if self._in_step:
            return
        self._send(ended=True, failure=failure)

    def _send(self, *, ended: bool = False, failure: str = "") -> None:
        calls, self._calls = tuple(self._calls), []
        self._channel.send(Orders(calls=calls, seen=self._seen, ended=ended, failure=failure))


def follow(core: Core, channel: Channel, limit_s: float | None = None) -> None:
    """Do what the leader does, until it ends.

    Args:
        core: This rank's part of the engine.
        channel: From the leader.
        limit_s: A step that lasts longer hangs, and ends this process; None: it may last for ever.

    Raises:
        EngineError: this rank's outputs are not those of the leader.
        RankError: the leader failed or is gone.
    """
    with Guard(limit_s, lambda: _hangs(limit_s)) as guard:
        _follow(core, channel, guard)


def _hangs(limit_s: float | None) -> str:
    return (
        f"a step of a tensor-parallel engine has not returned on a rank that follows within {limit_s:g} s "
        "(data.engine.init_args.rank_timeout_s)"
    )


def _follow(core: Core, channel: Channel, guard: Guard) -> None:
    seen = 0
    while True:
        orders = channel.receive()
        if orders.failure:
            raise RankError(f"the rank that leads this engine failed: {orders.failure}")
        for name, arguments in orders.calls:
            getattr(core, name)(*arguments)
        # Compared before the next step: with other requests in its batch that one might wait for ever.
        if orders.seen != seen:
            raise EngineError(
                "the ranks of a tensor-parallel engine have sampled different tokens: their batches would "
                "part. Look in data.engine.init_args.extra for what makes sampling depend on the rank"
            )
        if orders.ended:
            return
        with guard.work():
            outputs = list(core.step())
        seen = digest(outputs, seen)


def digest(outputs: Iterable[Any], before: int) -> int:
    """A number that differs when the requests of a step, their lengths or their last tokens do."""
    for output in outputs:
        ids = output.outputs[0].token_ids
        before = zlib.crc32(f"{output.request_id} {len(ids)} {ids[-1] if ids else ''}".encode(), before)
    return before


def lead(leader: Leader, play: Callable[[], T]) -> T:
    """The result of `play`; the followers are sent home whatever came of it."""
    try:
        result = play()
    except BaseException as error:
        _end_after(error, leader)
        raise
    leader.end()
    return result


def _end_after(error: BaseException, leader: Leader) -> None:
    # Where the followers are gone, too, the leader's own failure is the one to report.
    with contextlib.suppress(RankError):
        leader.end(f"{type(error).__name__}: {error}")


class Broadcast:
    """Fulfils `Channel` by broadcasts over a gloo group: when a rank ends, its connection breaks, and the
    others see it at once.

    Args:
        group: The ranks that run one engine.
        leader: Its first rank.
        timeout_s: How long a follower waits for its leader's next step.
    """

    def __init__(self, group: dist.ProcessGroup, leader: int, timeout_s: float) -> None:
        self._group, self._leader, self._timeout_s = group, leader, timeout_s

    def send(self, orders: Orders) -> None:
        """Hand on orders.

        Raises:
            RankError: a follower has ended.
        """
        self._broadcast([orders], "one of its followers has ended")

    def receive(self) -> Orders:
        """The leader's next orders.

        Raises:
            RankError: the leader has ended, or took no step for `timeout_s`.
        """
        return self._broadcast([None], f"it has ended, or took no step for {self._timeout_s:g} s")

    def _broadcast(self, message: list[Any], reason: str) -> Orders:
        try:
            dist.broadcast_object_list(message, src=self._leader, group=self._group)
        except RuntimeError as error:
            short = str(error).partition("\n")[0][:200]
            raise RankError(
                f"rank {self._leader} leads a tensor-parallel engine: {reason} ({short})"
            ) from error
        orders: Orders = message[0]
        return orders


def engine_groups(size: int, timeout_s: float) -> tuple[int, Broadcast]:
    """The leader of this rank's engine, and the channel to or from it; to be called by all ranks alike.

    Neighbours run an engine together: ranks 0 to size - 1 the first one.
    """
    own: tuple[int, Broadcast] | None = None
    for first in range(0, dist.get_world_size(), size):
        ranks = list(range(first, first + size))
        group = dist.new_group(ranks, backend="gloo", timeout=timedelta(seconds=timeout_s))
        if dist.get_rank() in ranks:
            own = first, Broadcast(group, first, timeout_s)
    assert own is not None  # every rank is in one of the groups
    return own
