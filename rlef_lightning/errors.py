"""One exception per boundary that a run crosses: data, engine, sandbox, configuration, checkpoint,
rollout, updates, store, ranks.

Every message names the value that was found, the limit or form that was expected, and the setting
to change. A bad program of the model is never an exception: it is a `Verdict` (types.py).
"""


class RLEFError(Exception):
    """Base of every error that this package raises on purpose; the CLI prints it without a traceback."""


class ConfigError(RLEFError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(RLEFError):
    """A problem file that is missing, unreadable or malformed; names the row and the field."""


class EngineError(RLEFError):
    """The sampling engine could not start, failed in a step, or disagrees with the trainer."""


class ExecutorError(RLEFError):
    """The sandbox failed after its retries. Never a verdict, hence never a reward."""


class CheckpointError(RLEFError):
    """A model folder or checkpoint that is missing, torn or of another shape than expected."""


class RolloutError(RLEFError):
    """Episodes that do not come to an end within their time."""


class TrainingError(RLEFError):
    """Gradients with which a step would destroy the weights."""


class StoreError(RLEFError):
    """Files of episodes that cannot be written or read; names the path and says what is lost."""


class RankError(RLEFError):
    """Another process of the same run has failed, has ended, or keeps the others waiting for too long."""
