"""Trainer's weights -> the engine, and the proof that it has them. Samples nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rlef_lightning.generation import Engine
from rlef_lightning.generation.proof import check_parity, probe_sequences
from rlef_lightning.models.digest import WeightsDigest
from rlef_lightning.ranks import Ranks

if TYPE_CHECKING:
    from torch import Tensor


class Trained(Protocol):
    """What a sync needs of the module."""

    def engine_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's weights by name."""
        ...

    def sequence_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """What the policy says of tokens."""
        ...


def sync(
    engine: Engine, trained: Trained, tokenizer: Any, tolerance: float, ranks: Ranks
) -> tuple[float, str]:
    """(the largest difference of a log-probability, over all ranks; the digest of the weights).

    Raises:
        EngineError: engine and trainer disagree by more than `tolerance`.
    """
    digest = WeightsDigest()
    engine.sync_weights(digest.watch(trained.engine_weights()))
    probe = probe_sequences(len(tokenizer), tokenizer.all_special_ids)
    parity = check_parity(engine.prompt_logprobs(probe), trained.sequence_logprobs(probe), tolerance)
    return ranks.largest(parity), digest.hexdigest()
