"""What one rank cannot read -> the same error on every rank, before any of them waits for the others in vain.

For work without communication of its own, after which the ranks go on together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from rlef_lightning.errors import CheckpointError, RLEFError

T = TypeVar("T")


def together(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """The work's result, where it has gone well on all ranks.

    Args:
        work: Is called at once; must not talk to other ranks.
        group: Who calls this together; None: all processes, or this one alone without a process group.

    Raises:
        RLEFError: this rank's own error, as it is.
        CheckpointError: those of other ranks, with their numbers.
    """
    error: RLEFError | None = None
    try:
        result = work()
    except RLEFError as own:
        error = own
    failures = {rank: reason for rank, reason in enumerate(_gathered(error, group)) if reason}
    if error is not None:
        raise error
    if failures:
        raise CheckpointError("; ".join(f"rank {rank} failed: {reason}" for rank, reason in failures.items()))
    return result


def _gathered(error: RLEFError | None, group: dist.ProcessGroup | None) -> list[str]:
    """Every rank's reason; empty: none."""
    own = "" if error is None else str(error)
    if not dist.is_initialized() or dist.get_world_size(group) == 1 or dist.get_backend(group) == "fake":
        return [own]
    reasons: list[str] = [""] * dist.get_world_size(group)
    dist.all_gather_object(reasons, own, group=group)
    return reasons
