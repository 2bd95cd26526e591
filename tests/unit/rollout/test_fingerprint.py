"""Which settings part stored episodes from those of a resumed run, and which do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlef_lightning.execution import NsjailExecutor, SubprocessExecutor
from rlef_lightning.generation import VLLMEngine
from rlef_lightning.rollout import EpisodeLog, PlaySettings, Store
from rlef_lightning.rollout.store import (
    Deciding,
    Origin,
    Writer,
    problems_fingerprint,
    settings_fingerprint,
)
from rlef_lightning.types import Limits

from .doubles import ScriptedEngine, ScriptedExecutor, dialogues, problem, program
from .playing import collect

TOKENIZER: Any = SimpleNamespace(
    chat_template="{{ messages }}", backend_tokenizer=SimpleNamespace(to_str=lambda: "merges")
)


def of(engine: object, executor: object) -> str:
    return settings_fingerprint([PlaySettings()], TOKENIZER, [engine, executor], 512)


def engine(**options: Any) -> str:
    return of(VLLMEngine(**options), SubprocessExecutor())


def executor(**options: Any) -> str:
    return of(VLLMEngine(), SubprocessExecutor(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bfloat16"},
        {"extra": {"quantization": "fp8"}},
        {"extra": {"kv_cache_dtype": "fp8"}},
        {"extra": {"rope_scaling": {"factor": 2.0}}},
        {"extra": {"dtype_of_something": Path("made/of/no/JSON")}},
    ],
    ids=str,
)
def test_an_engine_that_samples_from_something_else(options: dict[str, Any]) -> None:
    assert engine(**options) != engine()
    assert engine(**options) == engine(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_sequences": 7},
        {"cpu_cache_gib": 3},
        {"gpu_memory_utilization": 0.9},
        {"enforce_eager": True},
        {"sleep_level": 0},
        {"ranks_per_engine": 2},
        {"rank_timeout_s": 5.0},
    ],
    ids=str,
)
def test_an_engine_that_is_only_faster_or_smaller(options: dict[str, Any]) -> None:
    assert engine(**options) == engine()


@pytest.mark.parametrize(
    "options",
    [{"report_chars": 100}, {"preload_numpy": True}, {"scratch_bytes": 1 << 20}, {"scratch_files": 3}],
    ids=str,
)
def test_an_executor_that_judges_or_reports_otherwise(options: dict[str, Any]) -> None:
    assert executor(**options) != executor()


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 9},
        {"workers_per_solution": 1},
        {"retries": 0},
        {"recycle_after": 5},
        {"silence_s": 9.0},
        {"share_as": "x"},
    ],
    ids=str,
)
def test_an_executor_that_is_only_faster_or_elsewhere(options: dict[str, Any]) -> None:
    assert executor(**options) == executor()


def test_another_python_judges_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    here = executor()
    monkeypatch.setattr("rlef_lightning.execution.client.sys", SimpleNamespace(version_info=(3, 99, 1)))
    assert executor() != here


def test_classes_and_the_context_count_too() -> None:
    assert of(VLLMEngine(), NsjailExecutor()) != executor()
    assert settings_fingerprint([], TOKENIZER, [], 512) != settings_fingerprint([], TOKENIZER, [], 513)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(cpu_s=1.0),
        Limits(wall_s=2.0),
        Limits(memory_bytes=1),
        Limits(output_bytes=1),
        Limits(processes=1),
    ],
    ids=str,
)
def test_the_limits_of_a_problem_are_among_the_problems(limits: Limits) -> None:
    one = problem("p0")
    assert problems_fingerprint([replace(one, limits=limits)]) != problems_fingerprint([one])


def test_players_of_ones_own_may_name_nothing() -> None:
    assert not isinstance(ScriptedEngine({}), Deciding)
    assert isinstance(VLLMEngine(), Deciding)
    assert isinstance(SubprocessExecutor(), Deciding)
    assert of(ScriptedEngine({}), ScriptedExecutor()) == of(ScriptedEngine({}), ScriptedExecutor())


def test_episodes_of_another_number_format_are_not_mixed_in(tmp_path: Path) -> None:
    (episode, *_) = collect(ScriptedEngine(dialogues({"p0": [program("right")]})), ["p0"]).episodes

    def opened(dtype: Any) -> EpisodeLog:
        settings = engine(dtype=dtype)
        origin = Origin(collection="train", epoch=0, seed=0, weights="w", settings=settings, problems="p")
        return EpisodeLog(Store(folder=str(tmp_path)), origin, Writer())

    with opened("float32") as log:
        log.append(episode)
    with opened("float32") as log:
        assert len(log.restored) == 1
    with opened("bfloat16") as log:
        assert not log.restored
        assert log.path.with_name(f"{log.path.name}.replaced").exists()
