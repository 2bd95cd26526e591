"""Problems -> one Collection, on every rank, of the episodes that all ranks played together.

Ranks that lead an engine play; the others follow their leader's engine. It plays nothing itself. Each rank
has a log, and what they hold is one collection: no episode counts twice, and it ends for all of them at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from rlef_lightning.generation import Engine, SharedEngine, SleepingEngine
from rlef_lightning.ranks import Ranks
from rlef_lightning.rollout import Collection, EpisodeLog, Pace, PlaySettings, Share, merge
from rlef_lightning.rollout.collector import boundary_of, response_tokens
from rlef_lightning.rollout.episode_log import Key
from rlef_lightning.types import Problem

PlayShare = Callable[[Share | None, frozenset[Key]], Collection]
"""Plays this rank's share of the episodes, all of them without a share; not those in other ranks' logs."""

NOTHING = Collection(episodes=(), problems=0, dropped=Counter(), seconds=0.0)
"""What a rank hands in that was stopped."""


def collect(
    play_share: PlayShare,
    ranks: Ranks,
    engine: Engine,
    problems: Sequence[Problem],
    settings: PlaySettings,
    pace: Pace,
    log: EpisodeLog | None = None,
    *,
    last: bool = True,
) -> Collection:
    """All episodes, in the order of problems and samples; then, if it is the `last` one, the engine sleeps.

    Where none is missing, the end is written to the logs, followers' too.

    Raises:
        RankError: another rank failed, ended, or did not come in time.
        ExecutorError, EngineError, RolloutError: too many episodes were dropped, over all ranks; the most
            frequent reason decides which.
    """
    shared = engine if isinstance(engine, SharedEngine) else None
    counter = ranks.counter()
    ranks_per_engine = 1 if shared is None else shared.ranks_per_engine
    share = None
    if ranks.size > 1:
        players = ranks.size // ranks_per_engine
        share = Share(counter=counter, players=players, samples_per_problem=settings.samples_per_problem)
    work = partial(play_share, share, _elsewhere(ranks, log))
    if shared is not None:
        work = partial(_lead, shared, work, problems, log)
    parts = ranks.together(work, counter, tell=ranks_per_engine == 1)
    whole = merge(parts, problems, settings)
    if last:
        let_sleep(engine)
    total = len(problems) * settings.samples_per_problem
    _check_dropped(whole, total, pace)
    # Not where a rank was stopped.
    if log is not None and len(whole.episodes) + whole.dropped.total() == total:
        log.finish()
    return whole


def _elsewhere(ranks: Ranks, log: EpisodeLog | None) -> frozenset[Key]:
    """What the other ranks have in their logs; asked before any of them writes on.

    An episode that several of them have belongs to the lowest.
    """
    known = ranks.gather(frozenset() if log is None else frozenset((*log.restored, *log.dropped)))
    if log is not None:
        log.leave(frozenset().union(*known[: ranks.rank]))
    return frozenset().union(*(keys for rank, keys in enumerate(known) if rank != ranks.rank))


def _lead(
    engine: SharedEngine, play: Callable[[], Collection], problems: Sequence[Problem], log: EpisodeLog | None
) -> Collection:
    """What this rank has played, or, where it follows, what is in its log of a run that it led."""
    played = engine.lead(play)
    return _stored(problems, log) if played is None else played


def _stored(problems: Sequence[Problem], log: EpisodeLog | None) -> Collection:
    episodes = () if log is None else tuple(log.restored.values())
    return Collection(
        episodes=episodes,
        problems=len({problem.id for problem in problems}),
        dropped=Counter() if log is None else Counter(log.dropped.values()),
        seconds=0.0,
        restored_tokens=response_tokens(episodes),
    )


def waits(rank_timeout_s: float, engine: Engine) -> dict[str, float]:
    """Seconds that a rank which is done waits for those that still play, by option."""
    found = {"data.rank_timeout_s": rank_timeout_s}
    if isinstance(engine, SharedEngine) and engine.ranks_per_engine > 1:
        found["data.engine.init_args.rank_timeout_s"] = engine.rank_timeout_s
    return found


def let_sleep(engine: Engine) -> None:
    """Give the engine's memory to the trainer, where the engine can and its settings say so."""
    if isinstance(engine, SleepingEngine):
        engine.sleep()


def _check_dropped(whole: Collection, total: int, pace: Pace) -> None:
    """Each rank holds its own drops against the limit; together they may still be too many."""
    count = whole.dropped.total()
    if count > pace.max_dropped_share * total:
        raise boundary_of(whole.dropped)(
            f"{count} of {total} episodes were dropped {dict(whole.dropped)}, more than "
            f"data.pace.max_dropped_share={pace.max_dropped_share:g} allows"
        )
