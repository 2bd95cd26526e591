"""Playing episodes: one coroutine per episode, the schedule of the engine, the collector."""

from rlef_lightning.rollout.collector import Collection, Collector
from rlef_lightning.rollout.merge import merge
from rlef_lightning.rollout.settings import Pace, PlaySettings
from rlef_lightning.rollout.share import Share

__all__ = ["Collection", "Collector", "Pace", "PlaySettings", "Share", "merge"]
