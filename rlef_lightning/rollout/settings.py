"""How episodes are played: the numbers that a config gives for training and for each evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlef_lightning.errors import ConfigError
from rlef_lightning.types import Sampling

Feedback = Literal["own", "random", "none"]
CutResponses = Literal["invalid", "read"]


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """One way to play episodes (RLEF, sec. 2.1 and 6).

    Example: independent samples are PlaySettings(turn_limit=1, samples_per_problem=12)
    """

    turn_limit: int = 3
    """Most responses of one episode; 1 gives independent samples without feedback."""
    samples_per_problem: int = 1
    """Episodes of each problem."""
    feedback: Feedback = "own"
    """"own": of the program itself; "random": of a wrong program of another problem; "none": the model is
    only asked for another try, whatever its program did, until the turn limit (the paper's ablations)."""
    cut_responses: CutResponses = "invalid"
    """A response that the length limit cut: "invalid": has no valid code, whatever stands in it; "read": its
    program counts if the block was closed."""
    answer_after: str | None = None
    """The program is looked for after the last of these marks, as "</think>"; a response without one has no
    valid code. "": in the whole response. null: the same, but refused for a model that thinks, since what it
    drafts in its thoughts is not its answer."""
    sampling: Sampling = field(default_factory=Sampling)
    """How responses are drawn."""

    def __post_init__(self) -> None:
        for name in ("turn_limit", "samples_per_problem"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def ends_on_pass(self) -> bool:
        """True: a program that passes the public tests ends the episode. That it goes on tells it failed, so
        without feedback an episode always has all its turns (RLEF, sec. 3)."""
        return self.feedback != "none"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How sampling and execution are interleaved."""

    max_in_flight: int = 256
    """Episodes that are played at the same time."""
    reply_after_steps: int | None = None
    """None: an episode goes on as soon as its program has run (fastest). A number: exactly so many engine
    steps after it was handed in, so that the engine sees the same batches in every run and a run can be
    repeated bit for bit; slower programs hold up the engine."""
    max_dropped_share: float = 0.02
    """A collection in which more than this share of the episodes is dropped (sandbox failures, numbers that
    are not finite, requests that the engine gave up, episodes that do not end) stops the run."""
    max_episode_s: float | None = 1200.0
    """Seconds on the clock after which an episode is dropped, waiting included; null: never. With several
    ranks less than they wait for each other (data.rank_timeout_s, and the engine's)."""
    max_engine_silence_s: float | None = 600.0
    """Seconds of stepping without an answer to any request, in a single step, or in a weight sync or its
    proof, after which the engine counts as hung and the run ends; null: never."""

    def __post_init__(self) -> None:
        for name in ("max_episode_s", "max_engine_silence_s"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ConfigError(f"{name} is {seconds:g}; it must be null or more than 0")
        if self.max_in_flight < 1:
            raise ConfigError(f"max_in_flight is {self.max_in_flight}; it must be at least 1")
        if self.reply_after_steps is not None and self.reply_after_steps < 1:
            raise ConfigError(f"reply_after_steps is {self.reply_after_steps}; it must be null or at least 1")
