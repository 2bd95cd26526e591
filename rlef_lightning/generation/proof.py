"""engine log-probabilities, trainer log-probabilities -> largest difference, or EngineError.

Silently wrong weights in the engine are the most expensive fault of RL trainers: nothing fails, the
run only learns less. So every weight sync is followed by this proof on a probe.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from rlef_lightning.errors import EngineError

COUNT, LENGTH = 4, 48
"""Sequences of the probe, and tokens in each."""


def probe_sequences(
    vocabulary: int, special_ids: Sequence[int], count: int = COUNT, length: int = LENGTH
) -> list[list[int]]:
    """Fixed pseudo-random token sequences: they touch rows of the embedding that ordinary text may not.

    Args:
        vocabulary: Number of token ids.
        special_ids: Ids left out of the probe.
        count: Number of sequences.
        length: Tokens in each.
    """
    rng = random.Random("probe")
    allowed = sorted(set(range(vocabulary)) - set(special_ids))
    return [rng.choices(allowed, k=length) for _ in range(count)]


def check_parity(
    engine_logprobs: Sequence[Sequence[float]],
    trainer_logprobs: Sequence[Sequence[float]],
    tolerance: float,
) -> float:
    """Largest absolute difference between the two, over every token of every probe sequence.

    Raises:
        EngineError: the difference is above the tolerance, or not a number.
    """
    largest, where = 0.0, (0, 0)
    for row, (engine_row, trainer_row) in enumerate(zip(engine_logprobs, trainer_logprobs, strict=True)):
        for column, (ours, theirs) in enumerate(zip(engine_row, trainer_row, strict=True)):
            difference = abs(ours - theirs)
            if difference > largest or math.isnan(difference):  # nothing is above a NaN: it stays
                largest, where = difference, (row, column)
    if not largest <= tolerance:
        row, column = where
        raise EngineError(
            f"after the weight sync engine and trainer disagree: at probe {row}, token {column + 1} the "
            f"engine's log-probability is {engine_logprobs[row][column]:.6f} and the trainer's "
            f"{trainer_logprobs[row][column]:.6f}, a difference of {largest:.2e} with a tolerance of "
            f"{tolerance:.0e}. The engine would sample from another model than the one being trained; if its "
            "number format is coarser on purpose (data.engine.init_args.dtype), raise data.parity_tolerance"
        )
    return largest
