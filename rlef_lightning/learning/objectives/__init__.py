"""What is maximised: one class a file, named by `model.objective.class_path`; by default the paper's, PPO."""

from rlef_lightning.learning.objectives.base import Objective
from rlef_lightning.learning.objectives.groups import GroupObjective
from rlef_lightning.learning.objectives.grpo import GRPO
from rlef_lightning.learning.objectives.ppo import PPO
from rlef_lightning.learning.objectives.rloo import RLOO
from rlef_lightning.learning.objectives.token_value import TokenValuePPO

__all__ = ["GRPO", "PPO", "RLOO", "GroupObjective", "Objective", "TokenValuePPO"]
