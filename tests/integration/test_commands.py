"""fit, validate, test and predict on the tiny config: real engine, real programs, real files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from rlef_lightning.rollout.episode_json import episode_from_json

from .commands import LAST, ROOT, SMALL, curve, succeed

pytestmark = pytest.mark.slow

CODECONTESTS = ROOT.parent / "shared" / "data" / "codecontests_dev.parquet"
LOGGED = (
    "solve_rate",
    "solve_rate_turn_1",
    "solve_rate_turn_3",
    "repair_rate",
    "errors/wrong_answer",
    "kl",
    "entropy",
    "clip_fraction",
    "value_explained_variance",
    "mismatch_max",
    "parity",
    "collecting_tokens_per_s",
    "scoring_tokens_per_s",
    "updating_tokens_per_s",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two epochs were trained."""
    folder = tmp_path_factory.mktemp("trained")
    succeed("fit", "--trainer.max_epochs=2", *SMALL, cwd=folder)
    return folder


def test_fit_logs_what_a_person_wants_to_see(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "runs/tiny/csv/version_0/metrics.csv").open()))
    logged = {name for row in rows for name, value in row.items() if value}
    assert {f"train/{name}" for name in LOGGED} <= logged
    assert "validation/solve_1at3" in logged
    assert list((trained / "runs/tiny/tensorboard/version_0").glob("events.out.*"))
    assert (trained / "runs/tiny/curve.png").read_bytes().startswith(b"\x89PNG")


def test_engine_and_trainer_agree_at_every_sync(trained: Path) -> None:
    assert [row["train/parity"] <= 1e-4 for row in curve(trained)] == [True, True]
    # The sampled tokens themselves, too, not the probe alone.
    assert all(row["train/mismatch_max"] <= 1e-4 for row in curve(trained))


def test_first_epoch_starts_at_the_reference(trained: Path) -> None:
    # Before the first update policy and reference are one model: every log-ratio is 0.
    assert curve(trained)[0]["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert curve(trained)[1]["train/kl"] != 0.0


def test_validate_prints_the_solve_rate(trained: Path) -> None:
    output = succeed("validate", f"--ckpt_path={LAST}", *SMALL, cwd=trained)
    assert "validation/solve_1at3" in output


def test_test_measures_three_ways(trained: Path) -> None:
    from rlef_lightning.problems import MicroProblems

    small = "--data.problems.init_args.test=8"
    succeed("test", f"--ckpt_path={LAST}", small, *SMALL, cwd=trained)
    folder = trained / "runs/tiny/evaluation"
    metrics = json.loads((folder / "metrics.json").read_text())
    for name, episodes in (("feedback", 24), ("random_feedback", 24), ("independent", 48)):
        low, rate, high = (metrics[f"test/{name}/solve_1at3{end}"] for end in ("_low", "", "_high"))
        assert 0.0 <= low <= rate <= high <= 1.0
        lines = (folder / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == episodes
        played = [episode_from_json(json.loads(line)) for line in lines]
        assert {e.problem_id for e in played} == {p.id for p in MicroProblems(test=8).problems("test")}
        assert metrics[f"test/{name}/parity"] <= 1e-4


def test_predict_writes_solutions(trained: Path) -> None:
    succeed("predict", f"--ckpt_path={LAST}", "--data.problems.init_args.test=5", cwd=trained)
    lines = (trained / "runs/tiny/solutions.jsonl").read_text().splitlines()
    solutions = [json.loads(line) for line in lines]
    assert len({solution["problem_id"] for solution in solutions}) == len(solutions) == 5
    assert all("print" in (solution["code"] or "print") for solution in solutions)


@pytest.mark.skipif(not CODECONTESTS.exists(), reason="no CodeContests problems in ../shared/data")
def test_real_problems_go_the_whole_way(tmp_path: Path) -> None:
    succeed(
        "fit",
        f"--config={ROOT / 'configs/experiment/codecontests_smoke.yaml'}",
        *(f"--data.problems.init_args.{split}={CODECONTESTS}" for split in ("train", "validation", "test")),
        "--data.problems.init_args.max_problems=6",
        "--data.problems_per_epoch=4",
        "--data.validation.problems=2",
        cwd=tmp_path,
    )
    rows = curve(tmp_path)
    assert [row["epoch"] for row in rows] == [0.0, 1.0]
    # The tiny model solves none of them: -1 each, plus -0.2 for each of at most two earlier turns.
    assert all(-1.5 <= row["train/return"] <= -0.9 for row in rows)
