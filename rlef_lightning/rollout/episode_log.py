"""One collection of one rank <-> its files: what of it is there already, and what is finished now.

A rank writes one file. It also reads those of ranks that an earlier run had and this one has not. A file that
was sampled by other weights or settings is set aside, never used. It samples nothing, chooses no episodes and
knows no checkpoint.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rlef_lightning.errors import StoreError
from rlef_lightning.rollout.append_file import AppendFile
from rlef_lightning.rollout.episode_json import episode_to_json
from rlef_lightning.rollout.records import Line, read_lines
from rlef_lightning.rollout.store import (
    Origin,
    Store,
    Writer,
    episode_of,
    epoch_and_rank,
    file_name,
    header_of,
    rank_files,
)
from rlef_lightning.types import Episode

Key = tuple[str, int]
"""Problem id and sample index: which episode of a collection."""

_OVER = "is of an evaluation that has ended, and a new one was asked for"
"""The ordinary reason for which a file is not gone on with."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Found:
    """What a file holds."""

    path: Path
    header: dict[str, Any] | None = None
    episodes: dict[Key, Episode] = field(default_factory=dict)
    dropped: dict[Key, str] | None = None
    """None: the collection had not come to its end."""
    stop: int = 0
    """Bytes of the lines that were written to their end."""
    torn_bytes: int = 0
    corrupt: list[int] = field(default_factory=list)
    """Numbers of the lines that are whole but not what was written."""

    def take(self, line: Line) -> None:
        if not line.whole:
            self.torn_bytes = line.stop - self.stop
            return
        self.stop = line.stop
        if line.record is None:
            self.corrupt.append(line.number)
        elif line.record["record"] == "header":
            self.header = line.record
        elif line.record["record"] == "episode":
            episode = episode_of(line.record)
            self.episodes[episode.problem_id, episode.sample_index] = episode
        elif line.record["record"] == "end":
            self.dropped = {(d["problem_id"], d["sample_index"]): d["reason"] for d in line.record["dropped"]}


def _alone(ended: bool) -> bool:
    return ended


class EpisodeLog:
    """The episodes of one collection, on disk; a context manager.

    Args:
        store: Where they are kept.
        origin: What they are sampled for and by.
        writer: Which process this is.
        any_rank: Whether it is true on any rank of the run; all of them open their logs at the same time.

    Raises:
        StoreError: the folder or file cannot be written, or another process writes it.
    """

    def __init__(
        self, store: Store, origin: Origin, writer: Writer, any_rank: Callable[[bool], bool] = _alone
    ) -> None:
        self._store, self._origin, self._writer = store, origin, writer
        folder = Path(store.folder)
        self.path = folder / file_name(origin.collection, origin.epoch, writer.rank)
        self.restored: Mapping[Key, Episode] = {}
        """Episodes that need not be sampled."""
        self.dropped: Mapping[Key, str] = {}
        """Episodes that a whole collection has dropped, with their reasons: they are not tried again."""
        self.ended = False
        """True: the collection had come to its end on all ranks, with their episodes and drops."""
        self._reasons: dict[Key, str] = {}
        self._written: Mapping[Key, str] | None = None
        self._remove_old(folder)
        self._file = AppendFile(self.path, folder / f".reserve-rank{writer.rank:04d}")
        try:
            self._take_over([_read(path) for path in self._paths(folder)], any_rank)
        except BaseException:
            self.close()
            raise

    def _paths(self, folder: Path) -> list[Path]:
        """This rank's file, then those that fall to it of ranks that there are no more."""
        writer, files = self._writer, rank_files(folder, self._origin.collection, self._origin.epoch)
        gone = [
            path
            for rank, path in files
            if rank >= writer.world_size and rank % writer.world_size == writer.rank
        ]
        return [self.path, *gone]

    def _take_over(self, files: list[_Found], any_rank: Callable[[bool], bool]) -> None:
        # An end is written when all ranks are done: one of them is enough.
        self.ended = any_rank(any(self._is_own(found) and found.dropped is not None for found in files))
        for found in files:
            reason = self._unusable(found)
            if reason:
                self._set_aside(found, reason)
            elif found.header is not None:
                self._restore(found)
        self.dropped = {key: reason for key, reason in self.dropped.items() if key not in self.restored}
        self._reasons = dict(self.dropped)
        if self.restored:
            _log.info("%s: %d episodes are read back", self.path, len(self.restored))
        if not self._file.size_bytes:
            header = {"record": "header", **header_of(self._origin), **asdict(self._writer)}
            self._file.append(header, sync=True)
            self._file.sync_folder()
        if self._origin.epoch is None:
            self.ended = False  # it is measured anew

    def _set_aside(self, found: _Found, reason: str) -> None:
        aside = found.path.with_name(f"{found.path.name}.replaced")
        if found.path == self.path:
            self._file.set_aside(aside)
        else:
            _rename(found.path, aside)
        _log.log(
            logging.INFO if reason == _OVER else logging.WARNING,
            "%s %s: its %d episodes are not used; it is kept as %s",
            found.path, reason, len(found.episodes), aside.name,
        )  # fmt: skip

    def _others(self, found: _Found) -> list[str]:
        """In what a file's origin is another one."""
        header = found.header or {}
        return [name for name, value in header_of(self._origin).items() if header.get(name) != value]

    def _is_own(self, found: _Found) -> bool:
        return found.header is not None and not self._others(found)

    def _unusable(self, found: _Found) -> str:
        """Why the file is not gone on with; empty: it is, or it is new."""
        if found.header is None:
            return "has no readable header" if found.stop + found.torn_bytes else ""
        others = self._others(found)
        over = self.ended if not others else found.dropped is not None
        if self._origin.epoch is None and over:
            return _OVER
        if others:
            return f"was sampled with other {', '.join(others)}"
        if not self._store.partial and not self.ended:
            return "is not complete, and data.store.partial is false"
        return ""

    def _restore(self, found: _Found) -> None:
        if found.torn_bytes:
            _log.warning(
                "%s: the last record was torn after %d bytes; it is dropped", found.path, found.torn_bytes
            )
            if found.path == self.path:
                self._file.cut(found.stop)
        if found.corrupt:
            _log.warning(
                "%s: the checksums of lines %s are wrong; they are left out, and their episodes sampled anew",
                found.path, ", ".join(map(str, found.corrupt)),
            )  # fmt: skip
        version = self._writer.policy_version
        read = {key: _renumbered(episode, version) for key, episode in found.episodes.items()}
        self.restored = {**read, **self.restored}
        if self.ended:
            self.dropped = {**(found.dropped or {}), **self.dropped}
        if found.path == self.path:
            self._written = found.dropped if self.ended else None

    def leave(self, keys: Collection[Key]) -> None:
        """Take episodes that another rank has in its log, too, as that one's."""
        self.restored = {key: episode for key, episode in self.restored.items() if key not in keys}
        self.dropped = {key: reason for key, reason in self.dropped.items() if key not in keys}
        self._reasons = dict(self.dropped)

    def _remove_old(self, folder: Path) -> None:
        """Files of epochs that are no longer kept: of this rank, and of ranks that there are no more."""
        keep, epoch, writer = self._store.keep_epochs, self._origin.epoch, self._writer
        if keep is None or epoch is None:
            return
        for path in folder.glob("*-epoch*"):
            name = epoch_and_rank(path.name)
            if name and name[0] <= epoch - keep and name[1] % writer.world_size == writer.rank:
                path.unlink(missing_ok=True)

    def __contains__(self, key: Key) -> bool:
        """True: this episode has ended, one way or the other."""
        return key in self.restored or key in self.dropped

    def append(self, episode: Episode) -> None:
        """Write an episode that has ended; once this returns, a kill does not lose it.

        Raises:
            StoreError: it could not be written, or only by giving up the reserve: the run must end.
        """
        self._file.append({"record": "episode", **episode_to_json(episode)})

    def drop(self, key: Key, reason: str) -> None:
        """Take note of an episode without a verdict; after an interruption it is tried again."""
        self._reasons[key] = reason

    def finish(self) -> None:
        """Write that the collection has come to its end on all ranks, and what was dropped here, why.

        Raises:
            StoreError: as in `append`.
        """
        if self._written == self._reasons:
            return
        entries = [
            {"problem_id": problem_id, "sample_index": index, "reason": reason}
            for (problem_id, index), reason in self._reasons.items()
        ]
        self._file.append({"record": "end", "dropped": entries}, sync=True)
        self._written, self.ended = dict(self._reasons), True

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._file.close()

    def __enter__(self) -> EpisodeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(path: Path) -> _Found:
    found = _Found(path=path)
    try:
        for line in read_lines(path):
            found.take(line)
    except OSError as error:
        raise StoreError(f"cannot read episodes of {path}: {error.strerror}") from error
    return found


def _rename(path: Path, aside: Path) -> None:
    try:
        os.replace(path, aside)
    except OSError as error:
        raise StoreError(
            f"cannot rename {path} to {aside.name}: {error.strerror}. Make the folder writable, or "
            "remove the file"
        ) from error


def _renumbered(episode: Episode, policy_version: int) -> Episode:
    turns = (
        replace(turn, completion=replace(turn.completion, policy_version=policy_version))
        for turn in episode.turns
    )
    return replace(episode, turns=tuple(turns))
