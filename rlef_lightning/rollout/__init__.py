"""Playing episodes: one coroutine per episode, the schedule of the engine, the collector, the store."""

from rlef_lightning.rollout.collector import Collection, Collector
from rlef_lightning.rollout.episode_log import EpisodeLog
from rlef_lightning.rollout.merge import merge
from rlef_lightning.rollout.settings import Pace, PlaySettings
from rlef_lightning.rollout.share import Share
from rlef_lightning.rollout.store import Store, read_episodes

__all__ = [
    "Collection", "Collector", "EpisodeLog", "Pace", "PlaySettings", "Share", "Store", "merge",
    "read_episodes",
]  # fmt: skip
