"""Solutions and evaluations as files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dialogues import episode, turn

from rlef_lightning.callbacks import EvaluationFiles, LearningCurve, SolutionWriter
from rlef_lightning.evaluation import Evaluated, Evaluation
from rlef_lightning.module import RLEFModule
from rlef_lightning.rollout import Collection, PlaySettings
from rlef_lightning.rollout.episode_json import episode_from_json
from rlef_lightning.types import Episode, Verdict

OK, WRONG = Verdict.ACCEPTED, Verdict.WRONG_ANSWER
FAILED = episode("sum-1", [turn("no", None, feedback="Try again."), turn("é", "print(1)", [WRONG])])
SOLVED = episode("sum-2", [turn("yes", "print('é')", [OK, OK])], private=[OK])
FIRST, SECOND = (SimpleNamespace(is_global_zero=rank == 0, callback_metrics={}) for rank in range(2))
LONE_SURROGATE = episode("odd", [turn("x", "pass", [WRONG], feedback="Input: \ud800é")])


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def evaluated(name: str, *episodes: Episode) -> Evaluated:
    collection = Collection(episodes=episodes, problems=2, dropped=Counter(), seconds=1.0)
    return Evaluated(
        name=name, evaluation=Evaluation(play=PlaySettings()), collection=collection, parity=1e-6
    )


def predicted(*episodes: Episode) -> Any:
    """What the module hands to a prediction writer; no network is needed for it."""
    return RLEFModule("nowhere").predict_step(evaluated("prediction", *episodes), 0)


def test_a_solution_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "solutions.jsonl"
    predictions = [predicted(FAILED), predicted(SOLVED)]
    SolutionWriter(str(path)).write_on_epoch_end(FIRST, None, predictions, [])
    assert lines_of(path) == [
        {
            "problem_id": "sum-1",
            "sample_index": 0,
            "code": "print(1)",
            "passed_public": False,
            "solved": False,
            "turns": 2,
            "stop_reason": "turn_limit",
        },
        {
            "problem_id": "sum-2",
            "sample_index": 0,
            "code": "print('é')",
            "passed_public": True,
            "solved": True,
            "turns": 1,
            "stop_reason": "public_tests_passed",
        },
    ]
    assert "print('é')" in path.read_text(encoding="utf-8")  # readable, not escaped
    assert capsys.readouterr().out == f"2 solutions written to {path}\n"


def test_a_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "solutions.jsonl"
    path.write_text("old\n" * 99)
    SolutionWriter(str(path)).write_on_epoch_end(FIRST, None, [predicted(SOLVED)], [])
    assert len(lines_of(path)) == 1
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("episodes", [(FAILED, SOLVED), (LONE_SURROGATE,)])
def test_episodes_of_an_evaluation_can_be_read_back(tmp_path: Path, episodes: tuple[Episode, ...]) -> None:
    files = EvaluationFiles(str(tmp_path))
    files.on_test_batch_end(FIRST, None, None, evaluated("cold", *episodes), 0)
    files.on_test_batch_end(FIRST, None, None, evaluated("random", SOLVED), 0, dataloader_idx=1)
    assert tuple(map(episode_from_json, lines_of(tmp_path / "cold.jsonl"))) == episodes
    assert tuple(map(episode_from_json, lines_of(tmp_path / "random.jsonl"))) == (SOLVED,)


def test_metrics_of_an_evaluation_and_the_worst_parity(tmp_path: Path) -> None:
    trainer = SimpleNamespace(
        callback_metrics={"test/cold/solve_1at3": torch.tensor(0.5)},
        is_global_zero=True,
    )
    EvaluationFiles(str(tmp_path)).on_test_end(trainer, None)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "test/cold/solve_1at3": 0.5,
    }


def test_only_the_first_rank_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SolutionWriter(str(tmp_path / "solutions.jsonl")).write_on_epoch_end(
        SECOND, None, [predicted(SOLVED)], []
    )
    files = EvaluationFiles(str(tmp_path))
    files.on_test_batch_end(SECOND, None, None, evaluated("cold", SOLVED), 0)
    files.on_test_end(SECOND, None)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def trainer_at(epoch: int) -> Any:
    """What the learning curve sees of a trainer."""
    return SimpleNamespace(current_epoch=epoch, is_global_zero=True)


def module_with(**metrics: float) -> Any:
    """A module after an epoch, and perhaps a validation, with these numbers."""
    named = {name.replace("__", "/"): number for name, number in metrics.items()}
    validation = {name: number for name, number in named.items() if name.startswith("validation/")}
    trained = {name: number for name, number in named.items() if name not in validation}
    return SimpleNamespace(epoch_metrics=trained, evaluation_metrics=validation)


def test_a_curve_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    first, later = LearningCurve(str(path)), LearningCurve(str(path))
    first.on_train_epoch_end(trainer_at(0), module_with(train__solve_rate=0.25, validation__solve_1at3=0.5))
    later.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert later.rows == first.rows
    later.on_train_epoch_end(trainer_at(1), module_with(train__solve_rate=0.5))
    expected = [
        {"epoch": 0.0, "train/solve_rate": 0.25, "validation/solve_1at3": 0.5},
        {"epoch": 1.0, "train/solve_rate": 0.5},
    ]
    # The rows are on disk after every epoch, the picture at the end.
    assert lines_of(path.with_suffix(".jsonl")) == expected
    assert not path.exists()
    later.on_fit_end(trainer_at(1), module_with())
    assert path.read_bytes().startswith(b"\x89PNG")
