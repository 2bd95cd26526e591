"""Model folders of one run -> nothing, or a CheckpointError: their token ids must mean the same.

Reads config.json and the tokenizer of each folder, no weights; every rank does so by itself, so that all of
them end with the same error.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlef_lightning.errors import CheckpointError
from rlef_lightning.models.skeleton import read_config
from rlef_lightning.models.tokenizer import read_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What the ids of a folder mean."""

    named: str
    """The option with its value, for errors."""
    rows: int
    """Of the embeddings: `vocab_size` in config.json, which may be more than there are tokens."""
    ids: dict[str, int]
    """By token."""


def check_vocabularies(policy: str, reference: str | None, value: str | None) -> None:
    """Compare the folders of reference and value network with the policy's; None: it is the policy's.

    Raises:
        CheckpointError: with sizes and names: tokens with other ids, ids without embeddings, or a reference
            whose probabilities are over another number of ids.
    """
    own = _read(policy, "model.model_folder")
    if reference is not None:
        other = _read(reference, "model.reference_folder")
        _check_tokens(other, own)
        if other.rows != own.rows:
            raise CheckpointError(
                f"{other.named} has a vocabulary of {other.rows} ids in its config.json (vocab_size) and "
                f"{own.named} one of {own.rows}: the KL compares probabilities over the same ids; use a "
                "reference of the same family"
            )
    if value is not None:
        _check_tokens(_read(value, "model.value_folder"), own)


def _read(folder: str, setting: str) -> Vocabulary:
    named = f"{setting}={folder!r}"
    config = read_config(folder, setting).get_text_config()
    found = Vocabulary(
        named=named, rows=config.vocab_size, ids=dict(read_tokenizer(folder, setting).get_vocab())
    )
    if (last := max(found.ids.values(), default=-1)) >= found.rows:
        raise CheckpointError(
            f"the tokenizer of {named} has ids up to {last} and the model embeddings for {found.rows} "
            "(vocab_size in config.json): these are files of different models, or embeddings that were not "
            "resized"
        )
    return found


def _check_tokens(other: Vocabulary, own: Vocabulary) -> None:
    if other.ids == own.ids:
        return
    differing = {token: number for token, number in (other.ids | own.ids).items()
                 if other.ids.get(token) != own.ids.get(token)}  # fmt: skip
    token = min(differing, key=lambda one: (differing[one], one))  # tokenizers list theirs in any order
    raise CheckpointError(
        f"the tokenizers differ: {other.named} has {len(other.ids)} tokens, {own.named} has {len(own.ids)}; "
        f"{token!r} is {other.ids.get(token, 'missing')} there and {own.ids.get(token, 'missing')} here. "
        "All networks read the same ids: use folders of one family"
    )
