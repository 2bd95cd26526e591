"""The demo: which commands it runs, and what it makes of the files that they leave."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from rlef_lightning.problems import MicroProblems
from rlef_lightning.rollout.episode_json import episode_to_json
from rlef_lightning.types import Completion, Episode, StopReason, Turn
from tools import demo

# `python -m rlef_lightning.cli COMMAND ...`: leaves the files of a real run, prepared beforehand.
RLEF = """#!{python} -IS
import json, os, pathlib, shutil, sys
prepared, (command, *options) = pathlib.Path({prepared!r}), sys.argv[3:]
with (prepared / "calls").open("a") as calls:
    note = [command, options, os.getcwd(), os.environ["PYTHONPATH"]]
    calls.write(json.dumps(note) + "\\n")
if (prepared / ("fail-" + command)).exists():
    sys.exit(4)
trained = any(option.startswith("--ckpt_path") for option in options)
here, name = pathlib.Path("runs/tiny"), "fit" if command == "fit" else "after" if trained else "before"
shutil.copytree(prepared / name, here if command == "fit" else here / "evaluation", dirs_exist_ok=True)
"""
PNG = b"\x89PNG\r\n"
KEY = "test/{}/solve_1at3"


def metrics(feedback: float, random_feedback: float, independent: float, parity: float) -> dict[str, float]:
    """What `rlef test` measures, in part."""
    return {
        KEY.format("feedback"): feedback,
        KEY.format("random_feedback"): random_feedback,
        KEY.format("independent"): independent,
        "test/feedback/parity": parity,
        "test/feedback/parity_of_nothing": 9.0,
    }


BEFORE = metrics(0.22222, 0.2, 0.31, 2e-6)
AFTER = metrics(0.73333, 0.5, 0.66666, 3e-6)
CURVE = [
    {"epoch": 0.0, "train/parity": 1e-6},
    {"epoch": 1.0, "train/parity": 5e-6, "validation/parity": 4e-6},
]


def episode(problem_id: str, response: str, sample_index: int = 0) -> Episode:
    """One turn without a program."""
    completion = Completion(token_ids=(1,), logprobs=(-0.5,), finish_reason="stop", policy_version=0)
    turn = Turn(
        prompt_token_ids=(2,),
        completion=completion,
        response=response,
        code=None,
        public_report=None,
        feedback=None,
    )
    return Episode(
        problem_id=problem_id,
        sample_index=sample_index,
        seed=0,
        turns=(turn,),
        private_report=None,
        stop_reason=StopReason.TURN_LIMIT,
    )


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the commands, and an interpreter that copies them."""
    folder = tmp_path / "prepared"
    ids = [problem.id for problem in MicroProblems().problems("test")]
    for name, numbers in (("before", BEFORE), ("after", AFTER)):
        (folder / name).mkdir(parents=True)
        (folder / name / "metrics.json").write_text(json.dumps(numbers))
        episodes = [episode(i, f"said-{name}-{sample}", sample) for i in ids for sample in (0, 1)]
        lines = "".join(json.dumps(episode_to_json(e)) + "\n" for e in episodes)
        (folder / name / "feedback.jsonl").write_text(lines)
    (folder / "fit").mkdir()
    (folder / "fit" / "curve.png").write_bytes(PNG)
    (folder / "fit" / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CURVE))
    python = folder / "python"
    python.write_text(RLEF.format(python=sys.executable, prepared=str(folder)))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return folder


def calls(prepared: Path) -> list[list[str]]:
    """Command and options of each call."""
    lines = (prepared / "calls").read_text().splitlines()
    return [[command, *options] for command, options, _, _ in map(json.loads, lines)]


def run(out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(out), *options])
    demo.main()


def test_the_demo_evaluates_trains_and_evaluates_again(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(out, monkeypatch, "--seed", "5")
    before, fit, after = calls(prepared)
    assert [before[0], fit[0], after[0]] == ["test", "fit", "test"]
    assert {"--seed_everything=5", "--data.seed=5", "--model.seed=5"} <= set(fit)
    assert "--data.seed=5" in before
    assert [option for option in after if option not in before] == [f"--ckpt_path={demo.LAST}"]
    assert [option for option in before if option not in after] == []
    # Relative paths of the config end up in the folder.
    notes = [json.loads(line) for line in (prepared / "calls").read_text().splitlines()]
    assert {folder for _, _, folder, _ in notes} == {str(out)}
    printed = capfd.readouterr().out.splitlines()
    assert [line.split()[:3] for line in printed if line.startswith("$")] == [
        ["$", "rlef", "test"],
        ["$", "rlef", "fit"],
        ["$", "rlef", "test"],
    ]
    numbers = json.loads(printed[-1])
    assert numbers.pop("train_minutes") >= 0.0
    assert numbers == {
        "solve_1at3_before": 0.2222,
        "solve_1at3_after": 0.7333,
        "solve_1at3_after_random_feedback": 0.5,
        "solve_independent3_after": 0.6667,
        "solve_independent3_before": 0.31,
        "parity_max": 5e-6,
    }


def test_the_report_shows_numbers_and_first_samples_of_every_family(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, monkeypatch)
    page = (tmp_path / "report.html").read_text()
    assert all(label in page for label in demo.LABELS.values())
    assert all(number in page for number in ("0.2222", "0.7333", "0.6667"))
    assert "said-before-0" in page
    assert "said-after-0" in page
    assert "said-before-1" not in page
    families = {problem.metadata["family"] for problem in MicroProblems().problems("test")}
    assert len(families) > 1
    assert all(f"{family}/" in page for family in families)
    assert (tmp_path / "runs/before/metrics.json").exists()
    assert (tmp_path / "runs/after/metrics.json").exists()


def test_a_second_demo_in_the_same_folder_replaces_the_first(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, monkeypatch)
    changed = {**AFTER, KEY.format("feedback"): 0.9}
    (prepared / "after" / "metrics.json").write_text(json.dumps(changed))
    run(tmp_path, monkeypatch)
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["solve_1at3_after"] == 0.9


@pytest.mark.parametrize(("failing", "reached"), [("test", ["test"]), ("fit", ["test", "fit"])])
def test_a_command_that_fails_ends_the_demo(
    failing: str, reached: list[str], prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prepared / f"fail-{failing}").touch()
    with pytest.raises(SystemExit, match=f"rlef {failing} ended with code 4"):
        run(tmp_path, monkeypatch)
    assert [command for command, *_ in calls(prepared)] == reached
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("own", "expected"), [(None, []), ("", []), ("/elsewhere", ["/elsewhere"])])
def test_commands_import_this_project_whatever_else_is_on_the_path(
    own: str | None, expected: list[str], prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", own)
    demo.rlef("fit", tmp_path)
    note = json.loads((prepared / "calls").read_text())
    assert note[3].split(os.pathsep) == [str(demo.ROOT), *expected]


def test_the_shown_problems_are_shared_out_among_the_families() -> None:
    problems = {problem.id: problem for problem in MicroProblems().problems("test")}
    shown = demo._varied(problems)
    counts: dict[str, int] = {}
    for problem_id in shown:
        family = problems[problem_id].metadata["family"]
        counts[family] = counts.get(family, 0) + 1
    present = {problem.metadata["family"] for problem in problems.values()}
    assert counts.keys() == present
    assert max(counts.values()) == -(-demo.SHOWN_PROBLEMS // len(present))
