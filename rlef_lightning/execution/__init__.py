"""Running programs: code + tests -> Executor -> Report. Does not know models, prompts or rewards."""

from rlef_lightning.execution.backends.bubblewrap import BubblewrapExecutor
from rlef_lightning.execution.backends.firejail import FirejailExecutor
from rlef_lightning.execution.backends.nsjail import NsjailExecutor
from rlef_lightning.execution.backends.subprocess import SubprocessExecutor
from rlef_lightning.execution.compare import matches
from rlef_lightning.execution.executor import Executor

__all__ = [
    "BubblewrapExecutor",
    "Executor",
    "FirejailExecutor",
    "NsjailExecutor",
    "SubprocessExecutor",
    "matches",
]
