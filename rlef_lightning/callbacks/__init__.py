"""What a run shows and keeps: progress, learning curve, solutions and evaluations as files."""

from rlef_lightning.callbacks.curve import LearningCurve
from rlef_lightning.callbacks.files import EvaluationFiles, SolutionWriter
from rlef_lightning.callbacks.progress import PhaseProgress

__all__ = ["EvaluationFiles", "LearningCurve", "PhaseProgress", "SolutionWriter"]
