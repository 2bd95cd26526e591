"""Running programs: code + tests -> Executor -> Report. Does not know models, prompts or rewards."""

from rlef_lightning.execution.backends.subprocess import SubprocessExecutor
from rlef_lightning.execution.compare import matches
from rlef_lightning.execution.executor import Executor

__all__ = ["Executor", "SubprocessExecutor", "matches"]
