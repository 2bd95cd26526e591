"""Problems -> one Collection, on every rank, of the episodes that all ranks played together.

Ranks that lead an engine play; the others follow their leader's engine. It plays nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rlef_lightning.errors import ExecutorError
from rlef_lightning.generation import Engine, SharedEngine, SleepingEngine
from rlef_lightning.ranks import Ranks
from rlef_lightning.rollout import Collection, Pace, PlaySettings, Share, merge
from rlef_lightning.types import Problem

PlayShare = Callable[[Share | None], Collection]
"""Plays this rank's share of the episodes; None: all of them."""


def collect(
    play_share: PlayShare,
    ranks: Ranks,
    engine: Engine,
    problems: Sequence[Problem],
    settings: PlaySettings,
    pace: Pace,
) -> Collection:
    """All episodes, in the order of problems and samples; then the engine sleeps.

    Raises:
        RankError: another rank failed, ended, or did not come in time.
        ExecutorError: too many episodes were dropped, over all ranks.
    """
    shared = engine if isinstance(engine, SharedEngine) else None
    counter = ranks.counter()
    ranks_per_engine = 1 if shared is None else shared.ranks_per_engine
    share = None
    if ranks.size > 1:
        players = ranks.size // ranks_per_engine
        share = Share(counter=counter, players=players, samples_per_problem=settings.samples_per_problem)
    work: Callable[[], Collection | None] = partial(play_share, share)
    if shared is not None:
        work = partial(shared.lead, work)
    parts = ranks.together(work, counter, tell=ranks_per_engine == 1)
    let_sleep(engine)
    whole = merge([part for part in parts if part is not None], problems, settings)
    _check_dropped(whole, len(problems) * settings.samples_per_problem, pace)
    return whole


def let_sleep(engine: Engine) -> None:
    """Give the engine's memory to the trainer, where the engine can and its settings say so."""
    if isinstance(engine, SleepingEngine):
        engine.sleep()


def _check_dropped(whole: Collection, total: int, pace: Pace) -> None:
    """Each rank holds its own drops against the limit; together they may still be too many."""
    count = whole.dropped.total()
    if count > pace.max_dropped_share * total:
        raise ExecutorError(
            f"{count} of {total} episodes were dropped {dict(whole.dropped)}, more than "
            f"data.pace.max_dropped_share={pace.max_dropped_share:g} allows"
        )
