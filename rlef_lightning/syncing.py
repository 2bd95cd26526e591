"""Trainer's weights -> the engine, and the proof that it has them. Samples nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rlef_lightning.generation import Engine
from rlef_lightning.generation.guard import Guard
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
    engine: Engine,
    trained: Trained,
    tokenizer: Any,
    tolerance: float,
    ranks: Ranks,
    limit_s: float | None = None,
) -> tuple[float, str]:
    """(the largest difference of a log-probability, over all ranks; the digest of the weights).

    Args:
        engine: Gets the weights.
        trained: Has them.
        tokenizer: Of which tokens the proof is made.
        tolerance: Of the proof.
        ranks: The processes of the run.
        limit_s: Sync or proof that lasts longer hangs, and ends the process; None: they may last for ever.

    Raises:
        EngineError: engine and trainer disagree by more than `tolerance`.
        RankError: another rank did not come.
    """
    ranks.gather(None)  # a rank that still writes a checkpoint, say, is waited for, and not taken for a hang
    digest = WeightsDigest()
    with _guard("weight sync", limit_s) as guard, guard.work():
        engine.sync_weights(digest.watch(trained.engine_weights()))
    probe = probe_sequences(len(tokenizer), tokenizer.all_special_ids)
    with _guard("proof after a weight sync", limit_s) as guard, guard.work():
        parity = check_parity(engine.prompt_logprobs(probe), trained.sequence_logprobs(probe), tolerance)
    return ranks.largest(parity), digest.hexdigest()


def _guard(work: str, limit_s: float | None) -> Guard:
    return Guard(
        limit_s, lambda: f"the {work} has not ended within {limit_s:g} s (data.pace.max_engine_silence_s)"
    )
