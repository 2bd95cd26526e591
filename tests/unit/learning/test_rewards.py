import pytest

from rlef_lightning.learning.rewards import RewardConfig, turn_rewards
from rlef_lightning.types import Verdict

PAPER = RewardConfig()


def test_solved_at_the_last_turn(turn, episode):
    played = episode(turn(), turn(verdict=Verdict.ACCEPTED), private=Verdict.ACCEPTED)
    assert turn_rewards(played, PAPER) == (0.0, 1.0)


@pytest.mark.parametrize("private", [None, Verdict.WRONG_ANSWER, Verdict.TIME_LIMIT])
def test_public_tests_alone_are_not_success(turn, episode, private):
    assert turn_rewards(episode(turn(verdict=Verdict.ACCEPTED), private=private), PAPER) == (-1.0,)


@pytest.mark.parametrize("verdict", [None, Verdict.SYNTAX_ERROR])
def test_earlier_turn_without_valid_code(turn, episode, verdict):
    assert turn_rewards(episode(turn(verdict=verdict), turn()), PAPER) == (-0.2, -1.0)


@pytest.mark.parametrize("verdict", [Verdict.RUNTIME_ERROR, Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT])
def test_code_that_fails_is_still_valid_code(turn, episode, verdict):
    assert turn_rewards(episode(turn(verdict=verdict), turn()), PAPER)[0] == 0.0


def test_last_turn_without_code_only_fails(turn, episode):
    assert turn_rewards(episode(turn(verdict=None)), PAPER) == (-1.0,)


def test_values_come_from_the_config(turn, episode):
    config = RewardConfig(solved=5.0, failed=0.5, invalid_code=0.25)
    assert turn_rewards(episode(turn(verdict=None), turn()), config) == (0.25, 0.5)


def test_no_turns(episode):
    with pytest.raises(ValueError, match="no turns"):
        turn_rewards(episode(), PAPER)
