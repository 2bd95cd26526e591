"""prompt ids -> Engine -> Completion: the seam between rollouts and whatever samples tokens.

Token ids go in and token ids come out; an engine knows no text, no chat template and no problem.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from rlef_lightning.errors import EngineError
from rlef_lightning.types import Completion, Sampling

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


FINISHED = ("stop", "length")
"""How a response may end: as the model wanted it, or at a limit of its length."""


class RequestFailed(EngineError):
    """The engine gave up one request; others may be answered."""


class Engine(Protocol):
    """Samples responses with the weights that were synced last.

    One owner drives it from one event loop: `submit` requests, `step` until they are answered.
    """

    @property
    def policy_version(self) -> int:
        """Number of weight syncs so far; 0 before the first."""
        ...

    @property
    def max_context_tokens(self) -> int:
        """Longest prompt plus response, in tokens."""
        ...

    def start(self, model_folder: str, stop_token_ids: Sequence[int]) -> None:
        """Load what is needed to sample; a second call does nothing.

        Args:
            model_folder: Hugging Face folder that gives the architecture; weights come by `sync_weights`.
            stop_token_ids: Ids that end a response.

        Raises:
            EngineError: the engine cannot start, with the reason.
        """
        ...

    def submit(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, seed: int
    ) -> asyncio.Future[Completion]:
        """Queue one request; the future resolves in a later `step`. The same seed draws the same tokens.

        The future raises RequestFailed where the engine gives the request up. Whoever needs the response no
        more cancels the future: at the next `step` the engine forgets the request.
        """
        ...

    def step(self) -> None:
        """Run one iteration of the batch, resolving the futures of the requests that finished."""
        ...

    def abort(self) -> None:
        """Forget every queued request."""
        ...

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace all weights, named as in the Hugging Face checkpoint, and drop every cached prefix."""
        ...

    def prompt_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probability of each token after the first, given those before it; samples nothing."""
        ...

    def close(self) -> None:
        """Free what `start` took; safe to call twice."""
        ...


@runtime_checkable
class SleepingEngine(Protocol):
    """An engine that gives its memory back while the trainer works."""

    def sleep(self) -> None:
        """Free weights and cache where that is wanted; the next `sync_weights` wakes the engine."""
        ...


@runtime_checkable
class SharedEngine(Protocol):
    """An engine that several ranks run together, each holding a part of the model.

    The first rank of such a group leads: it alone plays episodes. The others follow its calls.
    `start`, `sync_weights`, `prompt_logprobs`, `sleep` and `close` are called by all of them alike.
    """

    @property
    def ranks_per_engine(self) -> int:
        """Ranks that run one engine together; 1: each rank has its own."""
        ...

    @property
    def rank_timeout_s(self) -> float:
        """Seconds that a follower waits for its leader's next call."""
        ...

    def lead(self, play: Callable[[], T]) -> T | None:
        """On the leader the result of `play`; on the others None, once the leader has played.

        Raises:
            RankError: on a follower: the leader has failed, with its reason, or has ended.
            EngineError: on a follower: it computes something else than its leader.
        """
        ...
