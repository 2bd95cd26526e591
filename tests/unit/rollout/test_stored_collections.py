"""A collection that was interrupted is completed: nothing is lost, nothing is played twice."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlef_lightning.errors import StoreError
from rlef_lightning.rollout import Collection, EpisodeLog, Pace, PlaySettings, Share, Store, merge
from rlef_lightning.rollout.episode_log import Key
from rlef_lightning.rollout.store import Origin, Writer
from rlef_lightning.types import Episode

from .doubles import ScriptedEngine, ScriptedExecutor, always, dialogues, loop_turns, problem, program
from .playing import collector_of, run
from .test_share import Count

NAMES = tuple(f"p{i}" for i in range(5))
PLAY = PlaySettings(samples_per_problem=3)
MIXED = dialogues({name: [program("wrong")] * (i % 3) + [program("right")] for i, name in enumerate(NAMES)})
ORIGIN = Origin(collection="train", epoch=0, seed=0, weights="w", settings="s", problems="p")


class Stopped(Exception):
    """The moment at which the run ends."""


def played(
    log: EpisodeLog | None,
    *,
    engine: ScriptedEngine | None = None,
    executor: ScriptedExecutor | None = None,
    stop_after: int | None = None,
    pace: Pace | None = None,
) -> Collection:
    def progress(done: int, total: int) -> None:
        reports.append((done, total))
        if done == stop_after:
            raise Stopped

    reports: list[tuple[int, int]] = []
    collector = collector_of(
        engine or ScriptedEngine(MIXED), executor or ScriptedExecutor(), pace or Pace(max_in_flight=4)
    )
    problems = [problem(name) for name in NAMES]
    collection = run(collector.collect(problems, PLAY, 0, progress, log=log))
    assert reports[-1] == (15, 15)
    if log is not None:
        log.finish()
    return collection


def opened(folder: Path) -> EpisodeLog:
    return EpisodeLog(Store(folder=str(folder)), ORIGIN, Writer(policy_version=7))


def interrupted(folder: Path, **options: Any) -> None:
    with opened(folder) as log, pytest.raises(Stopped):
        played(log, **options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.lists(st.integers(1, 4), max_size=4), st.sampled_from([None, 2]), st.randoms(use_true_random=False))
def test_interruptions_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], reply_after_steps: int | None, draw: Random
) -> None:
    folder = tmp_path_factory.mktemp("store")
    pace = Pace(max_in_flight=4, reply_after_steps=reply_after_steps)
    done, requests = 0, []
    for step in steps:
        done = min(done + step, 14)
        engine = ScriptedEngine(MIXED)
        executor = ScriptedExecutor(loop_turns(lambda: draw.randrange(5)))
        with opened(folder) as log:
            done = max(done, len(log.restored) + 1)
            with pytest.raises(Stopped):
                played(log, engine=engine, executor=executor, stop_after=done, pace=pace)
        requests.append(engine)
    with opened(folder) as log:
        read_back = len(log.restored)
        engine = ScriptedEngine(MIXED)
        completed = played(log, engine=engine, pace=pace)
    assert completed.episodes == played(None).episodes
    assert read_back >= done
    # What was read back was not sampled again.
    seeds = {episode.seed for episode in log.restored.values()}
    assert len({episode.seed for episode in completed.episodes}) == 15
    assert restored_tokens(log.restored.values()) == completed.restored_tokens
    assert len(seeds) == read_back


def restored_tokens(episodes: Any) -> int:
    return sum(len(turn.completion.token_ids) for episode in episodes for turn in episode.turns)


def test_a_whole_collection_asks_neither_engine_nor_executor(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        first = played(log)
    engine, executor = ScriptedEngine(MIXED), ScriptedExecutor()
    with opened(tmp_path) as log:
        again = played(log, engine=engine, executor=executor)
    assert again.episodes == first.episodes
    assert again.restored_tokens == again.response_tokens
    assert (engine.requests, executor.started) == ([], False)


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    interrupted(tmp_path, stop_after=6)
    engine = ScriptedEngine(MIXED)
    with opened(tmp_path) as log:
        kept = {(e.problem_id, e.sample_index) for e in log.restored.values()}
        played(log, engine=engine)
    assert len(kept) >= 6
    whole = ScriptedEngine(MIXED)
    played(None, engine=whole)
    assert 0 < len(engine.requests) < len(whole.requests)
    assert {seed for _, _, seed in engine.requests} < {seed for _, _, seed in whole.requests}


def test_drops_of_a_whole_collection_are_drops_again(tmp_path: Path) -> None:
    def engine() -> ScriptedEngine:
        return ScriptedEngine(MIXED, logprob=lambda prompt, seed: math.nan if "Solve p2." in prompt else -0.5)

    pace = Pace(max_dropped_share=0.3)
    with opened(tmp_path) as log:
        first = played(log, engine=engine(), pace=pace)
    with opened(tmp_path) as log:
        again = played(log, pace=pace)  # by an engine that would not fail now
    assert first.dropped == again.dropped == Counter({"not_finite": 3})
    assert again.episodes == first.episodes


def test_an_interrupted_collection_tries_its_drops_again(tmp_path: Path) -> None:
    script = dialogues(always(NAMES, program("right")) | {"p0": [program("break")]})
    pace = Pace(max_in_flight=1, max_dropped_share=0.3)
    interrupted(tmp_path, engine=ScriptedEngine(script), pace=pace, stop_after=7)
    with opened(tmp_path) as log:
        assert len(log.restored) == 4
        collection = played(log)
    assert not collection.dropped
    assert len(collection.episodes) == 15


def test_a_store_that_fails_ends_the_collection(tmp_path: Path) -> None:
    class Full(EpisodeLog):
        def append(self, episode: Episode) -> None:
            if episode.problem_id == "p3":
                raise StoreError("the disk is full")
            super().append(episode)

    log = Full(Store(folder=str(tmp_path)), ORIGIN, Writer())
    with log, pytest.raises(StoreError, match="the disk is full"):
        played(log)
    with opened(tmp_path) as after:
        assert len(after.restored) >= 6
        assert not after.ended


def test_writing_holds_up_no_coroutine(tmp_path: Path) -> None:
    """Appending is no wait: the schedule of the repeatable mode is the same with and without a store."""
    batches = []
    for folder in (None, tmp_path):
        engine = ScriptedEngine(MIXED)
        pace = Pace(max_in_flight=4, reply_after_steps=3)
        if folder is None:
            played(None, engine=engine, pace=pace)
        else:
            with opened(folder) as log:
                played(log, engine=engine, pace=pace)
        batches.append(engine.batches)
    assert batches[0] == batches[1]


def test_ranks_complete_a_collection_together(tmp_path: Path) -> None:
    """What either of them has stored is played by none, and comes once."""

    def logs() -> list[EpisodeLog]:
        store = Store(folder=str(tmp_path))
        return [EpisodeLog(store, ORIGIN, Writer(rank=rank, world_size=2)) for rank in range(2)]

    def part(rank: int, log: EpisodeLog, elsewhere: frozenset[Key], count: Count, stop: int | None) -> Any:
        def progress(done: int, total: int) -> None:
            if done == stop:
                raise Stopped

        engine = engines[rank]
        share = Share(counter=count, players=2, samples_per_problem=PLAY.samples_per_problem)
        collector = collector_of(engine, ScriptedExecutor(), Pace(max_in_flight=2))
        work = collector.collect(problems, PLAY, 0, progress, share, log=log, elsewhere=elsewhere)
        return run(work)

    problems = [problem(name) for name in NAMES]
    engines = [ScriptedEngine(MIXED), ScriptedEngine(MIXED)]
    count = Count()
    for rank, log in enumerate(logs()):
        with log, pytest.raises(Stopped):
            part(rank, log, frozenset(), count, stop=3)
    engines, count, again = [ScriptedEngine(MIXED), ScriptedEngine(MIXED)], Count(), logs()
    keys = [frozenset(log.restored) for log in again]
    assert min(map(len, keys)) >= 3  # those that ended in the same step came in as well
    assert not keys[0] & keys[1]
    parts = []
    for rank, log in enumerate(again):
        with log:
            parts.append(part(rank, log, keys[1 - rank], count, stop=None))
    whole = merge(parts, problems, PLAY)
    plain = played(None)
    assert [(e.problem_id, e.sample_index, e.seed) for e in whole.episodes] == [
        (e.problem_id, e.sample_index, e.seed) for e in plain.episodes
    ]
    assert whole.restored_tokens == restored_tokens(
        [e for e in whole.episodes if (e.problem_id, e.sample_index) in keys[0] | keys[1]]
    )
