"""The main job from start to end: python -m tools.demo --out FOLDER [--seed N].

Evaluates the warm-started tiny model, trains it by RLEF, evaluates it again (with feedback, with
feedback of another problem, and by independent samples), and writes a report. The last line is one JSON
object. Every step is an ordinary `rlef` command, printed before it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rlef_lightning.callbacks.report_page import render_page
from rlef_lightning.problems import MicroProblems
from rlef_lightning.rollout.episode_json import episode_from_json
from rlef_lightning.types import Episode, Problem

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "tiny.yaml"
MODEL = ROOT / "tools" / "tiny_model" / "model"
LAST = Path("runs/tiny/checkpoints/last.ckpt")
CURVE = Path("runs/tiny/curve.png")
EVALUATION = Path("runs/tiny/evaluation")
SHOWN_PROBLEMS = 24
LABELS = {
    "solve_1at3_before": "1@3 before training",
    "solve_1at3_after": "1@3 after training",
    "solve_1at3_after_random_feedback": "1@3 after, feedback of another problem",
    "solve_independent3_after": "1@3 after, three independent samples",
    "solve_independent3_before": "1@3 before, three independent samples",
    "train_minutes": "minutes of training",
    "parity_max": "largest engine/trainer difference",
}


def rlef(command: str, out: Path, *options: str) -> None:
    """Run one rlef command in `out`, where the config's relative paths end up."""
    line = [command, "--config", str(CONFIG), "--model.model_folder", str(MODEL), *options]
    print("$ rlef", " ".join(line), flush=True)
    # The command runs elsewhere, and what is imported must be the project that this file belongs to.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONWARNINGS": "ignore", **os.environ, "PYTHONPATH": path}
    code = subprocess.run(
        [sys.executable, "-m", "rlef_lightning.cli", *line], cwd=out, env=environment, check=False
    ).returncode
    if code != 0:
        sys.exit(f"rlef {command} ended with code {code}; its output is above")


def evaluate(out: Path, name: str, seed: int, *options: str) -> dict[str, float]:
    """Metrics of `rlef test`; the episodes lie beside them in runs/NAME."""
    rlef("test", out, "--trainer.logger=false", "--verbose=false", f"--data.seed={seed}", *options)
    folder = out / "runs" / name
    shutil.rmtree(folder, ignore_errors=True)
    (out / EVALUATION).rename(folder)
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return metrics


def train(out: Path, seed: int) -> float:
    """Run `rlef fit`; minutes from its start to its end."""
    began = time.perf_counter()
    rlef("fit", out, f"--seed_everything={seed}", f"--data.seed={seed}", f"--model.seed={seed}")
    return (time.perf_counter() - began) / 60


def summary(
    before: dict[str, float], after: dict[str, float], curve: list[dict[str, float]], minutes: float
) -> dict[str, Any]:
    """The numbers that the demo is judged by."""
    key = "test/{}/solve_1at3".format
    return {
        "solve_1at3_before": round(before[key("feedback")], 4),
        "solve_1at3_after": round(after[key("feedback")], 4),
        "solve_1at3_after_random_feedback": round(after[key("random_feedback")], 4),
        "solve_independent3_after": round(after[key("independent")], 4),
        "solve_independent3_before": round(before[key("independent")], 4),
        "train_minutes": round(minutes, 2),
        "parity_max": max(
            value
            for row in (before, after, *curve)
            for name, value in row.items()
            if name.endswith("/parity")
        ),
    }


def write_report(out: Path, numbers: dict[str, Any]) -> Path:
    """One HTML page with dialogues before and after, and the learning curve."""
    problems = {problem.id: problem for problem in MicroProblems().problems("test")}
    shown = _varied(problems)
    before, after = (_episodes(out / "runs" / name / "feedback.jsonl", shown) for name in ("before", "after"))
    page = out / "report.html"
    render_page(
        page,
        title="RLEF on the micro problems",
        summary={LABELS[name]: number for name, number in numbers.items()},
        before=before,
        after=after,
        problems=problems,
        curve_png=out / CURVE,
    )
    return page


def _varied(problems: dict[str, Problem]) -> set[str]:
    """The first problems of each family, in turn."""
    families: dict[str, list[str]] = {}
    for problem in problems.values():
        families.setdefault(problem.metadata["family"], []).append(problem.id)
    each = -(-SHOWN_PROBLEMS // len(families))
    return {problem_id for ids in families.values() for problem_id in ids[:each]}


def _episodes(path: Path, shown: set[str]) -> list[Episode]:
    with path.open() as lines:
        episodes = [episode_from_json(json.loads(line)) for line in lines]
    return [e for e in episodes if e.problem_id in shown and e.sample_index == 0]


def main() -> None:
    """Run the demo and print its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    before = evaluate(out, "before", arguments.seed)
    minutes = train(out, arguments.seed)
    after = evaluate(out, "after", arguments.seed, f"--ckpt_path={LAST}")
    curve = [json.loads(row) for row in (out / CURVE.with_suffix(".jsonl")).read_text().splitlines()]
    numbers = summary(before, after, curve, minutes)
    page = write_report(out, numbers)
    print(f"Report: {page}\nCurve: {out / CURVE}")
    print(f"Minutes from start to report: {(time.perf_counter() - began) / 60:.1f}")
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
