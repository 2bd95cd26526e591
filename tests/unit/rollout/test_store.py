"""What is stored is read back by the run that it belongs to, and by nobody else."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.json
import pytest
from hypothesis import HealthCheck, given, settings

from rlef_lightning.errors import ConfigError, StoreError
from rlef_lightning.rollout import EpisodeLog, Store, read_episodes
from rlef_lightning.rollout.records import read_lines, record_line
from rlef_lightning.rollout.store import Origin, Writer, fingerprint, problems_fingerprint
from rlef_lightning.types import Episode, Limits

from .doubles import problem
from .test_episode_json import EPISODE, episodes

ORIGIN = Origin(collection="train", epoch=3, seed=7, weights="w", settings="s", problems="p")
WRITER = Writer(policy_version=4)


def sample(index: int, policy_version: int = 4) -> Episode:
    turn = EPISODE.turns[0]
    completion = replace(turn.completion, policy_version=policy_version)
    return replace(EPISODE, sample_index=index, turns=(replace(turn, completion=completion),))


def opened(folder: Path, origin: Origin = ORIGIN, writer: Writer = WRITER, **store: Any) -> EpisodeLog:
    return EpisodeLog(Store(folder=str(folder), **store), origin, writer)


def filled(folder: Path, count: int = 3, *, finish: bool = False, origin: Origin = ORIGIN) -> Path:
    with opened(folder, origin) as log:
        for index in range(count):
            log.append(sample(index))
        if finish:
            log.drop(("sum-1", 9), "executor")
            log.finish()
        return log.path


def indices(log: EpisodeLog) -> list[int]:
    return sorted(index for _, index in log.restored)


def test_what_was_appended_is_restored(tmp_path: Path) -> None:
    path = filled(tmp_path)
    assert path.name == "train-epoch00003-rank0000.jsonl"
    with opened(tmp_path) as log:
        assert dict(log.restored) == {("sum-1", index): sample(index) for index in range(3)}
        assert not log.ended
        log.append(sample(3))
    assert list(read_episodes(path)) == [sample(index) for index in range(4)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(episodes)
def test_every_episode_comes_back_exactly(tmp_path: Path, episode: Episode) -> None:
    origin = replace(ORIGIN, seed=int(fingerprint(repr(episode)), 16))
    with opened(tmp_path, origin) as log:
        log.append(episode)
    (found,) = read_episodes(log.path)
    assert tokens(found) == tokens(episode)
    assert found.seed == episode.seed


def tokens(episode: Episode) -> list[object]:
    return [
        (turn.prompt_token_ids, turn.completion.token_ids, *map(float.hex, turn.completion.logprobs))
        for turn in episode.turns
    ]


def test_any_reader_of_json_lines_takes_the_file(tmp_path: Path) -> None:
    path = filled(tmp_path, finish=True)
    table = pyarrow.json.read_json(path)
    assert table["record"].to_pylist() == ["header", "episode", "episode", "episode", "end"]
    assert table["turns"].to_pylist()[1][0]["completion"]["logprobs"] == [-0.5]
    header = json.loads(path.read_text().splitlines()[0])
    assert (header["epoch"], header["seed"], header["weights"], header["rank"]) == (3, 7, "w", 0)


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_record_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with opened(tmp_path) as log:
        assert indices(log) == [0, 1]
        log.append(sample(2))
    assert "torn" in caplog.text
    assert path.read_bytes() == whole


def test_every_torn_end_leaves_the_records_before_it(tmp_path: Path) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    ends = [line.stop for line in read_lines(path)]
    for size in range(ends[0], len(whole), 7):
        path.write_bytes(whole[:size])
        with opened(tmp_path) as log:
            assert len(log.restored) == sum(end <= size for end in ends[1:])
        path.unlink()


def test_a_corrupt_record_is_left_out_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"-0.5", b"-0.6"), *lines[3:]]))
    with opened(tmp_path) as log:
        assert indices(log) == [0, 2]
    assert f"{path}: the checksums of lines 3 are wrong" in caplog.text
    assert [episode.sample_index for episode in read_episodes(path)] == [0, 2]


@pytest.mark.parametrize(
    "other",
    [{"seed": 8}, {"weights": "v"}, {"settings": "t"}, {"problems": "q"}],
    ids=lambda other: next(iter(other)),
)
def test_episodes_of_another_origin_are_never_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    path = filled(tmp_path)
    before = path.read_bytes()
    with opened(tmp_path, replace(ORIGIN, **other)) as log:
        assert not log.restored
    assert f"was sampled with other {next(iter(other))}: its 3 episodes are not used" in caplog.text
    assert path.with_name(f"{path.name}.replaced").read_bytes() == before
    assert not list(read_episodes(path))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"x" + data, lambda data: b"torn"])
def test_without_a_header_nothing_is_used(tmp_path: Path, damage: Any) -> None:
    path = filled(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with opened(tmp_path) as log:
        assert not log.restored
        log.append(sample(5))
    with opened(tmp_path) as log:
        assert indices(log) == [5]


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(record_line({"record": "header", "format": 99}))
    with pytest.raises(StoreError, match="format 99 and this version reads 1"):
        list(read_episodes(path))
    with pytest.raises(StoreError, match=r"cannot read episodes of .*: No such file"):
        list(read_episodes(tmp_path / "none"))


def test_a_whole_collection_keeps_its_drops(tmp_path: Path) -> None:
    path = filled(tmp_path, finish=True)
    before = path.read_bytes()
    with opened(tmp_path) as log:
        assert log.ended
        assert log.dropped == {("sum-1", 9): "executor"}
        log.finish()
    assert path.read_bytes() == before


def test_partial_collections_may_be_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with opened(tmp_path, partial=False) as log:
        assert not log.restored
        log.append(sample(0))
        log.finish()
    with opened(tmp_path, partial=False) as log:
        assert indices(log) == [0]


def test_an_evaluation_that_has_ended_is_measured_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    origin = replace(ORIGIN, collection="test-a b/c", epoch=None)
    path = filled(tmp_path, origin=origin)
    assert path.name == "test-a_b_c-rank0000.jsonl"
    with opened(tmp_path, origin) as log:
        assert len(log.restored) == 3
        log.finish()
    for other in (origin, replace(origin, weights="v")):
        with opened(tmp_path, other) as log:
            assert not log.restored
            log.finish()
    assert not caplog.records  # nothing to warn of


def test_restored_episodes_have_the_present_policy_version(tmp_path: Path) -> None:
    filled(tmp_path)
    with opened(tmp_path, writer=Writer(policy_version=11)) as log:
        assert log.restored["sum-1", 1] == sample(1, policy_version=11)


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (None, [0, 1, 2, 3, 4])])
def test_files_of_old_epochs_are_removed(tmp_path: Path, keep: int | None, left: list[int]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for epoch in range(5):
        for rank in range(2):
            writer = Writer(rank=rank, world_size=2)
            opened(tmp_path, replace(ORIGIN, epoch=epoch), writer, keep_epochs=keep).close()
    names = [f"train-epoch{epoch:05d}-rank{rank:04d}.jsonl" for epoch in left for rank in range(2)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", *names]


def test_a_resume_keeps_later_epochs_and_clears_up_after_ranks_that_are_gone(tmp_path: Path) -> None:
    for epoch in range(4):
        for rank in range(2):
            opened(
                tmp_path, replace(ORIGIN, epoch=epoch), Writer(rank=rank, world_size=2), keep_epochs=None
            ).close()
    opened(tmp_path, replace(ORIGIN, epoch=2), keep_epochs=1).close()
    assert {path.name[:16] for path in tmp_path.iterdir()} == {"train-epoch00002", "train-epoch00003"}


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(StoreError, match=r"is being written by another process"):
        opened(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=rf"cannot write to {tmp_path}/file/.*: File exists"):
        opened(tmp_path / "file")


# ---- fingerprints ----------------------------------------------------------------------------------


def test_fingerprints_tell_problems_apart() -> None:
    one, two = problem("a"), problem("b")
    assert problems_fingerprint([one, two]) == problems_fingerprint([problem("a"), problem("b")])
    others = [
        problems_fingerprint(other)
        for other in (
            [two, one],
            [one],
            [one, replace(two, private_tests=two.private_tests[:1])],
            [one, replace(two, limits=Limits(cpu_s=3.5))],
        )
    ]
    assert len({problems_fingerprint([one, two]), *others}) == 5


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    # hashlib.blake2b(b'{"a": [1, null], "b": "x"}', digest_size=16).hexdigest()
    assert fingerprint({"b": "x", "a": (1, None)}) == "c54553a8e71142be6c188f232923ce8d"


def test_settings_of_the_store_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"store\.keep_epochs is 0; it must be null or at least 1"):
        Store(folder="x", keep_epochs=0)
    with pytest.raises(ConfigError, match=r"store\.folder is empty"):
        Store(folder="")


def test_a_lost_lock_is_found_by_the_next_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A killed process leaves its reserve behind; the next one uses it."""
    path = filled(tmp_path)
    (tmp_path / ".reserve-rank0000").write_bytes(b"0" * 100)
    caplog.set_level(logging.INFO)
    with opened(tmp_path) as log:
        assert len(log.restored) == 3
    assert f"{path}: 3 episodes are read back" in caplog.text
    assert not (tmp_path / ".reserve-rank0000").exists()
