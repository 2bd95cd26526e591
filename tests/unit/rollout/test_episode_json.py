"""What is written of an episode is read back as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.rollout.episode_json import episode_from_json, episode_to_json
from rlef_lightning.types import Completion, Episode, Report, StopReason, TestResult, Turn, Verdict

any_text = st.text(st.characters(), max_size=6)  # lone surrogates included
ids = st.lists(st.integers(0, 1 << 20), max_size=4).map(tuple)
finite = st.floats(allow_nan=False, allow_infinity=False)

results = st.builds(
    TestResult,
    verdict=st.sampled_from(Verdict),
    stdout=any_text,
    stderr=any_text,
    cpu_s=finite,
    wall_s=finite,
    peak_memory_bytes=st.integers(0, 1 << 40),
)
reports = st.builds(Report, results=st.lists(results, min_size=1, max_size=3).map(tuple))
completions = st.builds(
    Completion,
    token_ids=ids,
    logprobs=st.lists(finite, max_size=4).map(tuple),
    finish_reason=st.sampled_from(["stop", "length"]),
    policy_version=st.integers(0, 1 << 40),
)
turns = st.builds(
    Turn,
    prompt_token_ids=ids,
    completion=completions,
    response=any_text,
    code=st.none() | any_text,
    public_report=st.none() | reports,
    feedback=st.none() | any_text,
)
episodes = st.builds(
    Episode,
    problem_id=any_text,
    sample_index=st.integers(0, 1 << 20),
    seed=st.integers(0, (1 << 63) - 1),
    turns=st.lists(turns, min_size=1, max_size=3).map(tuple),
    private_report=st.none() | reports,
    stop_reason=st.sampled_from(StopReason),
)

EPISODE = Episode(
    problem_id="sum-1",
    sample_index=2,
    seed=5,
    turns=(
        Turn(
            prompt_token_ids=(1, 2),
            completion=Completion(token_ids=(3,), logprobs=(-0.5,), finish_reason="stop", policy_version=4),
            response="no",
            code=None,
            public_report=None,
            feedback=None,
        ),
    ),
    private_report=None,
    stop_reason=StopReason.TURN_LIMIT,
)


@given(episodes)
def test_round_trip(episode: Episode) -> None:
    again = episode_from_json(json.loads(json.dumps(episode_to_json(episode))))
    assert again == episode
    assert hash(again) == hash(episode)  # tuples all the way down, not lists
    assert again.stop_reason is episode.stop_reason
    assert again.solved == episode.solved


def test_written_by_hand() -> None:
    assert json.loads(json.dumps(episode_to_json(EPISODE))) == {
        "problem_id": "sum-1",
        "sample_index": 2,
        "seed": 5,
        "turns": [
            {
                "prompt_token_ids": [1, 2],
                "completion": {
                    "token_ids": [3],
                    "logprobs": [-0.5],
                    "finish_reason": "stop",
                    "policy_version": 4,
                },
                "response": "no",
                "code": None,
                "public_report": None,
                "feedback": None,
            }
        ],
        "private_report": None,
        "stop_reason": "turn_limit",
    }


@pytest.mark.parametrize(
    "name", ["problem_id", "sample_index", "seed", "turns", "private_report", "stop_reason"]
)
def test_a_missing_field_is_an_error(name: str) -> None:
    written = episode_to_json(EPISODE)
    del written[name]
    with pytest.raises((KeyError, TypeError)):
        episode_from_json(written)


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="surprise"):
        episode_from_json({**episode_to_json(EPISODE), "surprise": 1})


def test_an_unknown_verdict_is_an_error() -> None:
    with pytest.raises(ValueError, match="almost"):
        episode_from_json({**episode_to_json(EPISODE), "stop_reason": "almost"})
