"""Playing episodes: one coroutine per episode, the schedule of the engine, the collector."""

from rlef_lightning.rollout.collector import Collection, Collector
from rlef_lightning.rollout.settings import Pace, PlaySettings

__all__ = ["Collection", "Collector", "Pace", "PlaySettings"]
