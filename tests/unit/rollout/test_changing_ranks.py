"""A collection that other numbers of ranks go on with: every episode once, only what is missing played."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rlef_lightning.collecting import collect
from rlef_lightning.errors import RankError, StoreError
from rlef_lightning.rollout import Collection, EpisodeLog, Pace, PlaySettings, Store, read_episodes
from rlef_lightning.rollout.store import Origin, Writer

from .doubles import ScriptedEngine, ScriptedExecutor, dialogues, problem, program
from .playing import collector_of, run
from .thread_ranks import ThreadRanks, on_ranks

NAMES = tuple(f"p{i}" for i in range(5))
PROBLEMS = [problem(name) for name in NAMES]
PLAY = PlaySettings(samples_per_problem=3)
KEYS = [(name, index) for name in NAMES for index in range(3)]
SCRIPT = dialogues({name: [program("wrong")] * (i % 3) + [program("right")] for i, name in enumerate(NAMES)})
ORIGIN = Origin(collection="train", epoch=0, seed=0, weights="w", settings="s", problems="p")
TEST = replace(ORIGIN, collection="test-x", epoch=None)
PACE = Pace(max_in_flight=2, max_dropped_share=0.5)


class Killed(BaseException):
    """Nothing catches it, as nothing sees a SIGKILL."""


@dataclass
class Run:
    """What one run on some ranks came to."""

    ends: list[Any]
    """Each rank's collection or exception."""
    restored: list[int]
    """Episodes that each rank read back."""
    seeds: set[int] = field(default_factory=set)
    """Of all requests."""

    @property
    def whole(self) -> Collection:
        """The same on all ranks."""
        assert all(isinstance(end, Collection) for end in self.ends), self.ends
        assert all(end.episodes == self.ends[0].episodes for end in self.ends)
        return self.ends[0]  # type: ignore[no-any-return]


def bad(prompt: str, seed: int) -> float:
    """Every episode on p4 is dropped."""
    return math.nan if "Solve p4." in prompt else -0.5


def run_on(
    folder: Path,
    *stops: int | None,
    origin: Origin = ORIGIN,
    logprob: Any = lambda prompt, seed: -0.5,
    **store: Any,
) -> Run:
    """A run on as many ranks as there are stops: new episodes after which a rank is killed.

    The others play what is left, once those are gone."""
    found = Run(ends=[], restored=[0] * len(stops))
    killed = threading.Semaphore(0)

    def rank_of(ranks: ThreadRanks) -> Collection:
        stop, kept = stops[ranks.rank], Store(folder=str(folder), **store)
        writer = Writer(rank=ranks.rank, world_size=ranks.size, policy_version=7)
        try:
            with EpisodeLog(kept, origin, writer, ranks.any) as log:
                return together(ranks, log, stop)
        finally:
            killed.release(len(stops))

    def together(ranks: ThreadRanks, log: EpisodeLog, stop: int | None) -> Collection:
        engine = ScriptedEngine(SCRIPT, logprob=logprob)

        def play(share: Any, elsewhere: Any) -> Collection:
            found.restored[ranks.rank] = len(log.restored)
            before = len(log.restored) + len(log.dropped)

            def progress(done: int, total: int) -> None:
                if stop is not None and done >= before + stop:
                    raise Killed

            for _ in range(0 if stop is not None else sum(other is not None for other in stops)):
                assert killed.acquire(timeout=60)
            collector = collector_of(engine, ScriptedExecutor(), PACE)
            work = collector.collect(PROBLEMS, PLAY, 0, progress, share, log=log, elsewhere=elsewhere)
            return run(work)

        try:
            return collect(play, ranks, engine, PROBLEMS, PLAY, PACE, log)
        finally:
            found.seeds |= {seed for _, _, seed in engine.requests}

    found.ends = on_ranks(len(stops), rank_of)
    return found


def keys(collection: Collection) -> list[tuple[str, int]]:
    return [(episode.problem_id, episode.sample_index) for episode in collection.episodes]


def keys_of(path: Path) -> set[tuple[str, int]]:
    return {(episode.problem_id, episode.sample_index) for episode in read_episodes(path)}


def stored(folder: Path) -> set[tuple[str, int]]:
    """In all files."""
    return set().union(*map(keys_of, folder.glob("*.jsonl")))


def kinds(found: Run) -> list[type]:
    return [type(end) for end in found.ends]


SIZES = [(2, 1), (1, 2), (2, 1, 2), (3, 2, 4), (4, 1, 3, 2)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_change_of_ranks_loses_and_doubles_nothing(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    plain, folder = run_on(tmp_path / "plain", None).whole, tmp_path / "store"
    for size in sizes[:-1]:
        before = stored(folder)
        interrupted = run_on(folder, *[1] * size)
        # A rank may hear of another's end before its own.
        assert Killed in kinds(interrupted)
        assert set(kinds(interrupted)) <= {Killed, RankError}
        assert sum(interrupted.restored) == len(before)
        assert len(stored(folder)) >= len(before) + size  # each rank ended at least one
    before = stored(folder)
    last = run_on(folder, *[None] * sizes[-1])
    assert last.whole.episodes == plain.episodes
    assert keys(last.whole) == KEYS
    assert sum(last.restored) == len(before)
    # What was read back was not asked for again.
    assert last.seeds < run_on(tmp_path / "again", None).seeds
    again = run_on(folder, *[None] * 3)
    assert (sum(again.restored), again.seeds) == (15, set())
    assert again.whole.episodes == plain.episodes


def test_an_episode_in_two_files_is_that_of_the_lowest_rank(tmp_path: Path) -> None:
    """As two runs with folders that did not see each other leave them."""
    for rank in range(2):
        alone = tmp_path / f"alone{rank}"
        assert run_on(alone, 6 + rank).restored == [0]
        (path,) = alone.glob("*.jsonl")
        (tmp_path / path.name.replace("rank0000", f"rank000{rank}")).write_bytes(path.read_bytes())
    files = [keys_of(path) for path in sorted(tmp_path.glob("*.jsonl"))]
    found = run_on(tmp_path, None, None)
    assert keys(found.whole) == KEYS
    assert found.restored == [len(files[0]), len(files[1] - files[0])]
    again = run_on(tmp_path, None)
    assert (again.restored, keys(again.whole)) == ([15], KEYS)


def test_files_of_ranks_that_are_gone_are_set_aside_when_they_are_of_other_weights(tmp_path: Path) -> None:
    run_on(tmp_path, 2, 2)
    found = run_on(tmp_path, None, origin=replace(ORIGIN, weights="v"))
    assert (found.restored, keys(found.whole)) == ([0], KEYS)
    names = {path.name for path in tmp_path.iterdir()}
    stem = "train-epoch00000-rank000"
    assert names == {f"{stem}0.jsonl", f"{stem}0.jsonl.replaced", f"{stem}1.jsonl.replaced"}


def test_a_file_that_cannot_be_set_aside_is_named(tmp_path: Path) -> None:
    run_on(tmp_path, 2, 2)
    (tmp_path / "train-epoch00000-rank0001.jsonl.replaced" / "full").mkdir(parents=True)
    (end,) = run_on(tmp_path, None, origin=replace(ORIGIN, weights="v")).ends
    assert isinstance(end, StoreError)
    assert "cannot rename" in str(end)
    assert "rank0001.jsonl" in str(end)


# ---- the end is the end of all ranks ---------------------------------------------------------------


@pytest.mark.parametrize("origin", [ORIGIN, TEST], ids=["epoch", "evaluation"])
@pytest.mark.parametrize("sizes", [2, 1])
def test_one_rank_that_has_finished_keeps_its_episodes(tmp_path: Path, origin: Origin, sizes: int) -> None:
    interrupted = run_on(tmp_path, None, 3, origin=origin)
    assert kinds(interrupted) == [RankError, Killed]
    found = run_on(tmp_path, *[None] * sizes, origin=origin)
    assert sum(found.restored) >= 11  # rank 1 had at most 3 and one in flight beside the last
    assert keys(found.whole) == KEYS


def test_an_evaluation_that_both_have_finished_is_measured_anew(tmp_path: Path) -> None:
    assert keys(run_on(tmp_path, None, None, origin=TEST).whole) == KEYS
    for size in (2, 1, 3, 2):
        found = run_on(tmp_path, *[None] * size, origin=TEST)
        assert found.restored == [0] * size
        assert keys(found.whole) == KEYS


def test_an_evaluation_of_two_that_one_has_completed_is_over(tmp_path: Path) -> None:
    """The file of the rank that is gone has no end of its own."""
    run_on(tmp_path, 3, 3, origin=TEST)
    assert sum(run_on(tmp_path, None, origin=TEST).restored) >= 6
    assert run_on(tmp_path, None, None, origin=TEST).restored == [0, 0]


def test_without_partial_collections_a_share_alone_is_not_read_back(tmp_path: Path) -> None:
    run_on(tmp_path, None, 3, partial=False)
    found = run_on(tmp_path, None, None, partial=False)
    assert found.restored == [0, 0]
    again = run_on(tmp_path, None, partial=False)
    assert (again.restored, again.seeds) == ([15], set())
    assert again.whole.episodes == found.whole.episodes


@pytest.mark.parametrize("sizes", [(2, 2), (2, 1), (1, 2)], ids=str)
def test_drops_after_a_resume_are_drops_again(tmp_path: Path, sizes: tuple[int, int]) -> None:
    run_on(tmp_path, None, 3, logprob=bad)
    first = run_on(tmp_path, *[None] * sizes[0], logprob=bad)
    dropped = first.whole.dropped
    assert dropped["not_finite"] == 3
    assert sum(dropped.values()) + len(first.whole.episodes) == 15
    again = run_on(tmp_path, *[None] * sizes[1])  # by an engine that would not fail now
    assert again.whole.dropped == dropped
    assert again.whole.episodes == first.whole.episodes
    assert not again.seeds


def test_drops_of_an_interrupted_collection_are_tried_again(tmp_path: Path) -> None:
    run_on(tmp_path, None, 3, logprob=bad)
    found = run_on(tmp_path, None, None)
    assert not found.whole.dropped
    assert keys(found.whole) == KEYS
