"""Problems -> Episodes: many dialogues at once over one engine and one executor.

A fixed number of episodes is in flight; when one ends the next begins. An episode without a verdict is
dropped and counted; too many of them stop the run, for a batch of survivors would be a biased one. What an
interrupted run has left in its log is taken from there and not played again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rlef_lightning.dialogue import ChatFormat, Prompts
from rlef_lightning.errors import EngineError, ExecutorError, RLEFError, RolloutError
from rlef_lightning.execution import Executor
from rlef_lightning.generation import Engine, RequestFailed
from rlef_lightning.rollout.episode_log import EpisodeLog, Key
from rlef_lightning.rollout.feedback import FeedbackSource, NoFeedback, OwnFeedback, RandomFeedback
from rlef_lightning.rollout.play import BadCompletion, Seat, Table, derive_seed, play
from rlef_lightning.rollout.schedule import Schedule
from rlef_lightning.rollout.settings import Pace, PlaySettings
from rlef_lightning.rollout.share import Share
from rlef_lightning.rollout.watch import EngineWatch, EpisodeTimeout, watched, within
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
    restored_tokens: int = 0
    """Response tokens of episodes that were read back and took no time."""

    @property
    def response_tokens(self) -> int:
        """Sampled tokens of all episodes."""
        return response_tokens(self.episodes)


def response_tokens(episodes: Iterable[Episode]) -> int:
    """Sampled tokens of all turns."""
    return sum(len(turn.completion.token_ids) for episode in episodes for turn in episode.turns)


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
        *,
        log: EpisodeLog | None = None,
        elsewhere: frozenset[Key] = frozenset(),
        check: Callable[[], None] | None = None,
        donors: Sequence[Episode] = (),
    ) -> Collection:
        """Play `settings.samples_per_problem` episodes of each problem; the seed decides every draw.

        Args:
            problems: Of which episodes are played; one may come twice.
            settings: How they are played.
            seed: Of this collection.
            progress: See `Progress`.
            share: With it other ranks play some of them; the collection holds those that this rank has.
            log: What is in it is not played again; what ends is written to it. That the collection is whole
                is not, as other ranks may not be done.
            elsewhere: Episodes that are in other ranks' logs; they are not played, and not returned here.
            check: Called twice a second; what it raises ends the collection.
            donors: For random feedback: episodes played by `donors_of(settings)`, one of each problem.

        Raises:
            ExecutorError, EngineError, RolloutError: more episodes were dropped than `Pace.max_dropped_share`
                allows; the most frequent reason decides which.
            EngineError: the engine failed, or answers nothing.
            DataError: a prompt does not fit into the context.
            StoreError: the log cannot be written.
        """
        seats = seats_of(problems, settings.samples_per_problem, seed)
        ledger = _Ledger(seats, self._pace.max_dropped_share, progress, log)
        missing = ledger.missing(elsewhere)
        if missing:
            await self._executor.start()
        began = time.perf_counter()
        if missing:
            feedback = self._feedback(problems, settings, donors)
            await self._play_all(missing, settings, feedback, ledger, share, check)
        return Collection(
            episodes=ledger.in_order(),
            problems=len({problem.id for problem in problems}),
            dropped=ledger.dropped,
            seconds=time.perf_counter() - began,
            restored_tokens=0 if log is None else response_tokens(log.restored.values()),
        )

    def _feedback(
        self, problems: Sequence[Problem], settings: PlaySettings, donors: Sequence[Episode]
    ) -> FeedbackSource:
        if settings.feedback == "own":
            return OwnFeedback(self._prompts)
        if settings.feedback == "none":
            return NoFeedback(self._prompts)
        return RandomFeedback(donors, {problem.id: problem for problem in problems}, self._prompts)

    async def _play_all(
        self,
        seats: Sequence[tuple[int, Seat]],
        settings: PlaySettings,
        feedback: FeedbackSource,
        ledger: _Ledger,
        share: Share | None,
        check: Callable[[], None] | None,
    ) -> None:
        with EngineWatch(self._engine, self._pace.max_engine_silence_s) as engine:
            schedule = Schedule(engine, self._pace.reply_after_steps)
            table = Table(
                schedule=schedule,
                executor=self._executor,
                chat=self._chat,
                prompts=self._prompts,
                feedback=feedback,
                settings=settings,
                max_context_tokens=self._engine.max_context_tokens,
            )
            queue, count = self._queue(seats, share)
            limit_s = self._pace.max_episode_s
            tasks = [asyncio.ensure_future(_play_from(queue, table, ledger, limit_s)) for _ in range(count)]
            checks = [engine.check] if check is None else [engine.check, check]
            await watched(schedule.run(tasks), checks)

    def _queue(
        self, seats: Sequence[tuple[int, Seat]], share: Share | None
    ) -> tuple[Iterator[tuple[int, Seat]], int]:
        """What is to be played here, one after the other, and how many at a time."""
        limit = self._pace.max_in_flight
        if share is None:
            return iter(seats), min(limit, len(seats))
        return (seat for _, seat in share.seats(seats)), share.in_flight(limit, len(seats))


def donors_of(settings: PlaySettings) -> PlaySettings:
    """How the donors of random feedback are played: one response to each problem, drawn as the others."""
    return replace(settings, feedback="own", turn_limit=1, samples_per_problem=1)


def with_donors(collection: Collection, donors: Collection) -> Collection:
    """The collection, with the donors that were dropped among its own, under reasons of their own."""
    lost = Counter({f"donor_{reason}": count for reason, count in donors.dropped.items()})
    return replace(collection, dropped=collection.dropped + lost)


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


async def _play_from(
    queue: Iterator[tuple[int, Seat]], table: Table, ledger: _Ledger, limit_s: float | None
) -> None:
    for place, seat in queue:
        try:
            ledger.keep(place, await within(play(seat, table), limit_s))
        except ExecutorError as error:
            ledger.drop(place, "executor", error)
        except BadCompletion as error:
            ledger.drop(place, "not_finite", error)
        except RequestFailed as error:
            ledger.drop(place, "request_failed", error)
        except EpisodeTimeout as error:
            ledger.drop(place, "time_limit", error)


_BOUNDARIES: dict[str, type[RLEFError]] = {
    "executor": ExecutorError,
    "not_finite": EngineError,
    "request_failed": EngineError,
    "time_limit": RolloutError,
}
"""Which error too many drops for a reason are."""


def boundary_of(dropped: Counter[str]) -> type[RLEFError]:
    """The error that too many drops are: that of the most frequent reason."""
    return _BOUNDARIES[dropped.most_common(1)[0][0]]


class _Ledger:
    """Which episodes ended how."""

    def __init__(
        self,
        seats: Sequence[Seat],
        max_dropped_share: float,
        progress: Progress | None,
        log: EpisodeLog | None,
    ) -> None:
        self._seats, self._limit, self._progress, self._log = seats, max_dropped_share, progress, log
        self._episodes: dict[int, Episode] = {}
        self._reasons: dict[int, str] = {}

    def missing(self, elsewhere: frozenset[Key]) -> list[tuple[int, Seat]]:
        """Seats and their places, without those that a log, this rank's or another's, has an end for."""
        if self._log is not None:
            for place, key in enumerate(map(_key, self._seats)):
                if key in self._log.restored:
                    self._episodes[place] = self._log.restored[key]
                elif key in self._log.dropped:
                    self._reasons[place] = self._log.dropped[key]
        done = self._episodes.keys() | self._reasons.keys()
        if done:
            self._report()
        return [
            (place, seat)
            for place, seat in enumerate(self._seats)
            if place not in done and _key(seat) not in elsewhere
        ]

    def keep(self, place: int, episode: Episode) -> None:
        if self._log is not None:
            self._log.append(episode)
        self._episodes[place] = episode
        self._report()

    def drop(self, place: int, reason: str, error: Exception) -> None:
        self._reasons[place] = reason
        if self._log is not None:
            self._log.drop(_key(self._seats[place]), reason)
        dropped, total = self.dropped, len(self._seats)
        if dropped.total() > self._limit * total:
            raise boundary_of(dropped)(
                f"{dropped.total()} of {total} episodes were dropped {dict(dropped)}, more than "
                f"data.pace.max_dropped_share={self._limit:g} allows; the last reason: {error}"
            ) from error
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(len(self._episodes) + len(self._reasons), len(self._seats))

    @property
    def dropped(self) -> Counter[str]:
        """Number of drops by reason."""
        return Counter(self._reasons.values())

    def in_order(self) -> tuple[Episode, ...]:
        return tuple(self._episodes[place] for place in sorted(self._episodes))


def _key(seat: Seat) -> Key:
    return seat.problem.id, seat.sample_index
