from dataclasses import replace

import pytest

from rlef_lightning.learning.samples import TokenSequence, episode_sequence, to_training_sample
from rlef_lightning.types import ScoredEpisode, TurnSpan


@pytest.fixture
def dialogue(turn, episode):
    return episode(turn((1, 2), (3, 4)), turn((1, 2, 3, 4, 5), (6,)))


def scored(played):
    return ScoredEpisode(
        episode=played,
        turn_rewards=(0.0, -1.0),
        mean_log_ratios=(0.0, 0.0),
        episode_return=-0.5,
        returns=(-0.5, -1.0),
        values=(0.1, 0.2),
        advantages=(0.7, -0.7),
    )


def test_one_sequence_with_spans(dialogue):
    assert episode_sequence(dialogue) == TokenSequence(token_ids=(1, 2, 3, 4, 5, 6), spans=((2, 4), (5, 6)))


def test_training_sample(dialogue):
    sample = to_training_sample(scored(dialogue), [[-1.0, -2.0], [-3.0]])
    assert sample.token_ids == (1, 2, 3, 4, 5, 6)
    assert sample.spans == (
        TurnSpan(start=2, stop=4, advantage=0.7, value=0.1, value_target=-0.5),
        TurnSpan(start=5, stop=6, advantage=-0.7, value=0.2, value_target=-1.0),
    )
    assert sample.policy_logprobs == (-1.0, -2.0, -3.0)
    assert sample.behaviour_logprobs == pytest.approx((-0.1, -0.2, -0.1))
    assert sample.response_tokens == 3


@pytest.mark.parametrize("prompt", [(1, 2, 9, 4, 5), (1, 2, 3), (2, 3, 4, 5)])
def test_retokenised_context_is_refused(turn, episode, prompt):
    with pytest.raises(ValueError, match=r"turn 1 of problem 'p'.*token-in, token-out"):
        episode_sequence(episode(turn((1, 2), (3, 4)), turn(prompt, (6,))))


def test_empty_prompt_is_refused(turn, episode):
    with pytest.raises(ValueError, match="empty prompt"):
        episode_sequence(episode(turn((), (3,))))


@pytest.mark.parametrize("logprobs", [[[-1.0, -2.0]], [[-1.0], [-3.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
def test_wrong_number_of_logprobs(dialogue, logprobs):
    with pytest.raises(ValueError, match="expected"):
        to_training_sample(scored(dialogue), logprobs)


def test_every_token_is_an_action(dialogue):
    numbers = replace(
        scored(dialogue), advantages=(1.0, 2.0, 3.0), values=(0.1, 0.2, 0.3), returns=(1.1, 2.2, 3.3)
    )
    sample = to_training_sample(numbers, [[-1.0, -2.0], [-3.0]], action_level="token")
    assert sample.spans == (
        TurnSpan(start=2, stop=3, advantage=1.0, value=0.1, value_target=1.1),
        TurnSpan(start=3, stop=4, advantage=2.0, value=0.2, value_target=2.2),
        TurnSpan(start=5, stop=6, advantage=3.0, value=0.3, value_target=3.3),
    )
    assert sample.response_tokens == 3
    with pytest.raises(ValueError, match="actions of the sample: expected 2"):
        to_training_sample(numbers, [[-1.0, -2.0], [-3.0]])


def test_the_reference_is_kept_where_it_is_given(dialogue):
    policy, reference = [[-1.0, -2.0], [-3.0]], [[-4.0, -5.0], [-6.0]]
    assert to_training_sample(scored(dialogue), policy).reference_logprobs == ()
    assert to_training_sample(scored(dialogue), policy, reference).reference_logprobs == (-4.0, -5.0, -6.0)
    with pytest.raises(ValueError, match="expected"):
        to_training_sample(scored(dialogue), policy, reference[:1])
