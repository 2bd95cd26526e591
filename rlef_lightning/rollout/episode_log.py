"""One collection of one rank <-> its file: what of it is there already, and what is finished now.

A file that was sampled by other weights or settings is set aside, never used. It samples nothing, chooses no
episodes and knows no checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

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


class EpisodeLog:
    """The episodes of one collection, on disk; a context manager.

    Raises:
        StoreError: the folder or file cannot be written, or another process writes it.
    """

    def __init__(self, store: Store, origin: Origin, writer: Writer) -> None:
        self._store, self._origin, self._writer = store, origin, writer
        folder = Path(store.folder)
        self.path = folder / file_name(origin.collection, origin.epoch, writer.rank)
        self.restored: Mapping[Key, Episode] = {}
        """Episodes that need not be sampled."""
        self.dropped: Mapping[Key, str] = {}
        """Episodes that a whole collection has dropped, with their reasons: they are not tried again."""
        self.ended = False
        """True: the collection had come to its end, with these episodes and drops."""
        self._remove_old(folder)
        self._file = AppendFile(self.path, folder / f".reserve-rank{writer.rank:04d}")
        try:
            self._take_over(self._read())
        except BaseException:
            self.close()
            raise

    def _read(self) -> _Found:
        found = _Found()
        for line in read_lines(self.path):
            found.take(line)
        return found

    def _take_over(self, found: _Found) -> None:
        reason = self._unusable(found)
        if reason:
            aside = self._file.set_aside()
            _log.log(
                logging.INFO if reason == _OVER else logging.WARNING,
                "%s %s: its %d episodes are not used; it is kept as %s",
                self.path, reason, len(found.episodes), aside.name,
            )  # fmt: skip
        elif found.header is not None:
            self._restore(found)
        if not self._file.size_bytes:
            header = {"record": "header", **header_of(self._origin), **asdict(self._writer)}
            self._file.append(header, sync=True)
            self._file.sync_folder()

    def _unusable(self, found: _Found) -> str:
        """Why the file is not gone on with; empty: it is, or it is new."""
        if found.header is None:
            return "has no readable header" if found.stop + found.torn_bytes else ""
        if self._origin.epoch is None and found.dropped is not None:
            return _OVER
        needed = header_of(self._origin)
        others = [name for name, value in needed.items() if found.header.get(name) != value]
        if others:
            return f"was sampled with other {', '.join(others)}"
        if not self._store.partial and found.dropped is None:
            return "is not complete, and data.store.partial is false"
        return ""

    def _restore(self, found: _Found) -> None:
        if found.torn_bytes:
            _log.warning(
                "%s: the last record was torn after %d bytes; it is dropped", self.path, found.torn_bytes
            )
            self._file.cut(found.stop)
        if found.corrupt:
            _log.warning(
                "%s: the checksums of lines %s are wrong; they are left out, and their episodes sampled anew",
                self.path, ", ".join(map(str, found.corrupt)),
            )  # fmt: skip
        version = self._writer.policy_version
        self.restored = {key: _renumbered(episode, version) for key, episode in found.episodes.items()}
        self.ended, self.dropped = found.dropped is not None, found.dropped or {}
        _log.info("%s: %d episodes are read back", self.path, len(self.restored))

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

    def finish(self, dropped: Mapping[Key, str]) -> None:
        """Write that the collection has come to its end, and which episodes it has dropped, why.

        Raises:
            StoreError: as in `append`.
        """
        if self.ended:
            return
        entries = [
            {"problem_id": problem_id, "sample_index": index, "reason": reason}
            for (problem_id, index), reason in dropped.items()
        ]
        self._file.append({"record": "end", "dropped": entries}, sync=True)
        self.ended = True

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._file.close()

    def __enter__(self) -> EpisodeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _renumbered(episode: Episode, policy_version: int) -> Episode:
    turns = (
        replace(turn, completion=replace(turn.completion, policy_version=policy_version))
        for turn in episode.turns
    )
    return replace(episode, turns=tuple(turns))
