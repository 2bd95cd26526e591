"""Problems -> Episodes: many dialogues at once over one engine and one executor.

A fixed number of episodes is in flight; when one ends the next begins. An episode without a verdict is
dropped and counted; too many of them stop the run, for a batch of survivors would be a biased one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rlef_lightning.dialogue import ChatFormat, Prompts
from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import Executor
from rlef_lightning.generation import Engine
from rlef_lightning.rollout.feedback import FeedbackSource, NoFeedback, OwnFeedback, RandomFeedback
from rlef_lightning.rollout.play import BadCompletion, Seat, Table, derive_seed, play
from rlef_lightning.rollout.schedule import Schedule
from rlef_lightning.rollout.settings import Pace, PlaySettings
from rlef_lightning.rollout.share import Share
from rlef_lightning.types import Episode, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What one call of the collector brought."""

    episodes: tuple[Episode, ...]
    """In the order of the problems and samples, whatever order they ended in."""
    problems: int
    """Number of different problems that were asked for."""
    dropped: Counter[str]
    """Number of episodes without a verdict, by reason."""
    seconds: float
    """Wall-clock time."""

    @property
    def response_tokens(self) -> int:
        """Sampled tokens of all episodes."""
        return sum(len(turn.completion.token_ids) for episode in self.episodes for turn in episode.turns)


Progress = Callable[[int, int], None]
"""Called with the number of episodes done and the number asked for."""


class Collector:
    """Plays episodes.

    Args:
        engine: Samples; must be started.
        executor: Judges; is started when needed.
        chat: Text to token ids.
        prompts: The wording.
        pace: How sampling and execution are interleaved.
    """

    def __init__(
        self, engine: Engine, executor: Executor, chat: ChatFormat, prompts: Prompts, pace: Pace
    ) -> None:
        self._engine = engine
        self._executor = executor
        self._chat = chat
        self._prompts = prompts
        self._pace = pace

    async def collect(
        self,
        problems: Sequence[Problem],
        settings: PlaySettings,
        seed: int,
        progress: Progress | None = None,
        share: Share | None = None,
    ) -> Collection:
        """Play `settings.samples_per_problem` episodes of each problem; the seed decides every draw.

        With a `share` other ranks play some of them, and the collection holds those that this rank played.

        Raises:
            ExecutorError: more episodes were dropped than `Pace.max_dropped_share` allows.
            EngineError: the engine failed.
            DataError: a prompt does not fit into the context.
        """
        await self._executor.start()
        began = time.perf_counter()
        feedback = await self._feedback(problems, settings, seed)
        seats = seats_of(problems, settings.samples_per_problem, seed)
        episodes, dropped = await self._play_all(seats, settings, feedback, progress, share)
        return Collection(
            episodes=episodes,
            problems=len({problem.id for problem in problems}),
            dropped=dropped,
            seconds=time.perf_counter() - began,
        )

    async def _feedback(
        self, problems: Sequence[Problem], settings: PlaySettings, seed: int
    ) -> FeedbackSource:
        if settings.feedback == "own":
            return OwnFeedback(self._prompts)
        if settings.feedback == "none":
            return NoFeedback(self._prompts)
        single = replace(settings, feedback="own", turn_limit=1, samples_per_problem=1)
        donors = await self.collect(problems, single, derive_seed(seed, "donors"))
        return RandomFeedback(donors.episodes, {p.id: p for p in problems}, self._prompts)

    async def _play_all(
        self,
        seats: Sequence[Seat],
        settings: PlaySettings,
        feedback: FeedbackSource,
        progress: Progress | None,
        share: Share | None,
    ) -> tuple[tuple[Episode, ...], Counter[str]]:
        schedule = Schedule(self._engine, self._pace.reply_after_steps)
        table = Table(
            schedule=schedule,
            executor=self._executor,
            chat=self._chat,
            prompts=self._prompts,
            feedback=feedback,
            settings=settings,
            max_context_tokens=self._engine.max_context_tokens,
        )
        ledger = _Ledger(len(seats), self._pace.max_dropped_share, progress)
        queue = iter(enumerate(seats)) if share is None else share.seats(seats)
        limit = self._pace.max_in_flight
        count = min(limit, len(seats)) if share is None else share.in_flight(limit, len(seats))
        tasks = [asyncio.ensure_future(_play_from(queue, table, ledger)) for _ in range(count)]
        await schedule.run(tasks)
        return ledger.in_order(), ledger.dropped


def seats_of(problems: Sequence[Problem], samples_per_problem: int, seed: int) -> list[Seat]:
    """Every episode that is asked for, the samples of a problem side by side.

    A problem that comes twice goes on counting its samples: equal seeds would give equal episodes."""
    counts: Counter[str] = Counter()
    seats = []
    for problem in (problem for problem in problems for _ in range(samples_per_problem)):
        index = counts[problem.id]
        counts[problem.id] += 1
        seats.append(Seat(problem=problem, sample_index=index, seed=derive_seed(seed, problem.id, index)))
    return seats


async def _play_from(queue: Iterator[tuple[int, Seat]], table: Table, ledger: _Ledger) -> None:
    for place, seat in queue:
        try:
            ledger.keep(place, await play(seat, table))
        except ExecutorError as error:
            ledger.drop("executor", error)
        except BadCompletion as error:
            ledger.drop("not_finite", error)


class _Ledger:
    """Which episodes ended how."""

    def __init__(self, total: int, max_dropped_share: float, progress: Progress | None) -> None:
        self._total = total
        self._limit = max_dropped_share
        self._progress = progress
        self._episodes: dict[int, Episode] = {}
        self.dropped: Counter[str] = Counter()

    def keep(self, place: int, episode: Episode) -> None:
        self._episodes[place] = episode
        self._report()

    def drop(self, reason: str, error: Exception) -> None:
        self.dropped[reason] += 1
        count = self.dropped.total()
        if count > self._limit * self._total:
            raise ExecutorError(
                f"{count} of {self._total} episodes were dropped {dict(self.dropped)}, more than "
                f"data.pace.max_dropped_share={self._limit:g} allows; the last reason: {error}"
            ) from error
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(len(self._episodes) + self.dropped.total(), self._total)

    def in_order(self) -> tuple[Episode, ...]:
        return tuple(self._episodes[place] for place in sorted(self._episodes))
