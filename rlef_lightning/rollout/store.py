"""What stored episodes belong to, how their files are called, and reading them back.

A file is JSON lines (records.py): a header that says by what and for what its episodes were sampled, the
episodes as they ended, and a record that says so when all ranks have come to the collection's end.
episode_log.py writes them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rlef_lightning.errors import ConfigError, StoreError
from rlef_lightning.rollout.episode_json import episode_from_json
from rlef_lightning.rollout.records import read_lines
from rlef_lightning.types import Episode, Problem

FORMAT = 1
"""Of the files; a reader refuses others."""

_NAME = re.compile(r".*-epoch(\d+)-rank(\d+)\.jsonl(\.replaced)?")


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where finished episodes are kept, and for how long."""

    folder: str
    """Of the files; made if it is missing. Each run has its own."""
    keep_epochs: int | None = 2
    """Files of the last so many epochs are kept; null: of all. At least the epochs between two checkpoints,
    or a resumed run samples some of them anew."""
    partial: bool = True
    """True: a collection that was interrupted is completed. False: it is played again from its start, and
    only whole ones are read back; then the engine sees the same batches as in an uninterrupted run."""

    def __post_init__(self) -> None:
        if self.keep_epochs is not None and self.keep_epochs < 1:
            raise ConfigError(f"store.keep_epochs is {self.keep_epochs}; it must be null or at least 1")
        if not self.folder:
            raise ConfigError("store.folder is empty; name a folder, or set data.store to null")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a file's episodes were sampled for and by. They are used again only where all of it is equal."""

    collection: str
    """"train", or the name of an evaluation."""
    epoch: int | None
    """None: an evaluation of its own, outside of training."""
    seed: int
    """From which the seeds of the episodes are derived."""
    weights: str
    """Digest of the weights that the engine was given."""
    settings: str
    """Fingerprint of everything else that decides an episode."""
    problems: str
    """Fingerprint of the problems that are asked for, tests included."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Which process writes."""

    rank: int = 0
    world_size: int = 1
    policy_version: int = 0
    """The engine's present one. Episodes that are read back get it: the header proves that the present
    weights made them, though the process that sampled them may have counted otherwise."""


def fingerprint(value: object) -> str:
    """A digest of anything that JSON can say, dataclasses included; the same on every machine."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    raise TypeError(f"a {type(value).__name__} has no fingerprint")


@runtime_checkable
class Deciding(Protocol):
    """An engine or executor some of whose options decide what is sampled, said or judged."""

    @property
    def episode_settings(self) -> Mapping[str, Any]:
        """Those options, as JSON can say them; not what changes only speed, memory or places."""
        ...


def settings_fingerprint(
    dialogue: Sequence[object], tokenizer: Any, players: Sequence[object], context_tokens: int
) -> str:
    """Of all that decides an episode besides weights, problem (with its limits) and seed.

    That is: settings, tokenizer, and the classes of engine and executor with the options that they name.
    """
    text = [tokenizer.chat_template, tokenizer.backend_tokenizer.to_str()]
    return fingerprint([dialogue, text, [_decided_by(player) for player in players], context_tokens])


def _decided_by(player: object) -> list[object]:
    options = dict(player.episode_settings) if isinstance(player, Deciding) else {}
    return [f"{type(player).__module__}.{type(player).__qualname__}", options]


def problems_fingerprint(problems: Sequence[Problem]) -> str:
    """A digest of the problems in their order; holds the text of one at a time."""
    digest = hashlib.blake2b(digest_size=16)
    for problem in problems:
        digest.update(fingerprint(problem).encode())
    return digest.hexdigest()


def file_name(collection: str, epoch: int | None, rank: int) -> str:
    """Such as train-epoch00003-rank0000.jsonl, and test-feedback-rank0000.jsonl where there is no epoch."""
    name = re.sub(r"[^\w.-]", "_", collection)
    middle = "" if epoch is None else f"-epoch{epoch:05d}"
    return f"{name}{middle}-rank{rank:04d}.jsonl"


def rank_files(folder: Path, collection: str, epoch: int | None) -> list[tuple[int, Path]]:
    """Rank and path of every file of a collection, by rank."""
    stem = file_name(collection, epoch, 0).removesuffix("0000.jsonl")
    name = re.compile(rf"{re.escape(stem)}(\d+)\.jsonl")
    found = ((name.fullmatch(path.name), path) for path in folder.glob(f"{stem}*"))
    return sorted((int(match[1]), path) for match, path in found if match)


def epoch_and_rank(name: str) -> tuple[int, int] | None:
    """Of a file of an epoch, one that was set aside included; None for other files."""
    found = _NAME.fullmatch(name)
    return None if found is None else (int(found[1]), int(found[2]))


def header_of(origin: Origin) -> dict[str, Any]:
    """What must be equal in a file's header."""
    return {"format": FORMAT, **asdict(origin)}


def episode_of(record: Mapping[str, Any]) -> Episode:
    """The episode of a record."""
    return episode_from_json({k: v for k, v in record.items() if k != "record"})


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """The episodes of a stored file, one at a time, in the order in which they ended.

    A record that is torn, or whose checksum is wrong, is left out.

    Raises:
        StoreError: there is no such file, or it has another format.
    """
    try:
        for line in read_lines(path):
            kind = None if line.record is None else line.record.get("record")
            if line.record is not None and kind == "header" and line.record.get("format") != FORMAT:
                raise StoreError(
                    f"{path} has format {line.record.get('format')} and this version reads {FORMAT}: read it "
                    "with the version that wrote it"
                )
            if line.record is not None and kind == "episode":
                yield episode_of(line.record)
    except OSError as error:
        raise StoreError(f"cannot read episodes of {path}: {error.strerror}") from error
