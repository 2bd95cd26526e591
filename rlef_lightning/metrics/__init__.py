"""Episodes -> numbers for people: n@k solve rate, repair, errors, edits (RLEF, sec. 3).

torchmetrics throughout, so that the numbers of several ranks add up. Nothing here trains on them.
"""

from rlef_lightning.metrics.dialogue import (
    ERROR_CLASSES,
    CodeChange,
    ErrorShares,
    MeanTurns,
    RepairRate,
    SolveRateByTurn,
    dialogue_metrics,
    error_class,
)
from rlef_lightning.metrics.edit_size import edit_size
from rlef_lightning.metrics.solve_rate import SolveRate, n_at_k

__all__ = [
    "ERROR_CLASSES",
    "CodeChange",
    "ErrorShares",
    "MeanTurns",
    "RepairRate",
    "SolveRate",
    "SolveRateByTurn",
    "dialogue_metrics",
    "edit_size",
    "error_class",
    "n_at_k",
]
