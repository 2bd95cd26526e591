"""The numbers of the paper (RLEF, sec. 2.2), by default."""

from dataclasses import FrozenInstanceError

import pytest

from rlef_lightning.learning.objectives import PPO
from rlef_lightning.learning.rewards import RewardConfig


def test_the_papers_objective():
    objective = PPO()
    assert objective.beta == 0.05
    assert objective.clip_epsilon == 0.2
    assert objective.value_clip == 0.2
    assert objective.normalisation == "global"


def test_the_papers_rewards():
    assert PPO().rewards == RewardConfig(solved=1.0, failed=-1.0, invalid_code=-0.2)


def test_the_objective_cannot_change_during_a_run():
    with pytest.raises(FrozenInstanceError):
        PPO().beta = 0.1
