"""Episode <-> a JSON object, field by field; what files of episodes are made of."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from rlef_lightning.types import Completion, Episode, Report, StopReason, TestResult, Turn, Verdict


def episode_to_json(episode: Episode) -> dict[str, Any]:
    """Plain lists, numbers and strings; `episode_from_json` gives the same episode back."""
    return {field.name: _plain(getattr(episode, field.name)) for field in fields(episode)}


def _plain(value: Any) -> Any:
    """As `dataclasses.asdict`, which would copy every token id by itself."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value] if value and is_dataclass(value[0]) else list(value)
    return value


def episode_from_json(data: dict[str, Any]) -> Episode:
    """The episode that was written.

    Raises:
        KeyError, TypeError, ValueError: the object is not an episode's.
    """
    return Episode(
        **{
            **data,
            "turns": tuple(_turn(turn) for turn in data["turns"]),
            "private_report": _report(data["private_report"]),
            "stop_reason": StopReason(data["stop_reason"]),
        }
    )


def _turn(data: dict[str, Any]) -> Turn:
    completion = data["completion"]
    sampled = {
        **completion,
        "token_ids": tuple(completion["token_ids"]),
        "logprobs": tuple(completion["logprobs"]),
    }
    own = {
        "prompt_token_ids": tuple(data["prompt_token_ids"]),
        "completion": Completion(**sampled),
        "public_report": _report(data["public_report"]),
    }
    return Turn(**{**data, **own})


def _report(data: dict[str, Any] | None) -> Report | None:
    if data is None:
        return None
    results = (TestResult(**{**result, "verdict": Verdict(result["verdict"])}) for result in data["results"])
    return Report(results=tuple(results))
