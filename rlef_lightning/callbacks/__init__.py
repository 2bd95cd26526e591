"""What a run shows and keeps: progress, learning curve, solutions, evaluations, checkpoints."""

from rlef_lightning.callbacks.checkpoint import AtomicCheckpointIO
from rlef_lightning.callbacks.curve import LearningCurve
from rlef_lightning.callbacks.files import EvaluationFiles, SolutionWriter
from rlef_lightning.callbacks.progress import PhaseProgress

__all__ = ["AtomicCheckpointIO", "EvaluationFiles", "LearningCurve", "PhaseProgress", "SolutionWriter"]
