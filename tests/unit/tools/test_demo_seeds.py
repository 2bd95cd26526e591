"""The demo over several seeds: whose numbers are read, and what is made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.bench import demo_seeds
from tools.bench.demo_seeds import T_95, last_object, summarise

# Prints as the demo does, among other things; the seed decides the numbers.
DEMO = """
import os, pathlib, sys
seed, out = int(sys.argv[2]), pathlib.Path(sys.argv[4])
print("$ rlef test", flush=True)
os.write(2, b"a warning without an end of line")
print('{"solved": %s, "minutes": 2}' % (0.5 + seed / 10))
sys.stdout.flush()
os.write(2, b"Exception ignored in: <function of a library>\\n")
if out.parent.name == "untidy":
    print("leaked semaphores: 1")
if out.parent.name == "silent":
    os.ftruncate(1, 0)
sys.exit(3 if out.parent.name == "failing" else 0)
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose demo takes no time."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()
    (tmp_path / "tools" / "demo.py").write_text(DEMO)
    monkeypatch.setattr(demo_seeds, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


@pytest.mark.parametrize("folder", ["tidy", "untidy"])
def test_the_numbers_of_a_demo_are_found_among_what_else_is_printed(folder: str, tmp_path: Path) -> None:
    out = tmp_path / folder
    assert demo_seeds.run_demo(3, out) == {"solved": 0.8, "minutes": 2}
    assert (out / "seed3.log").read_text().startswith("$ rlef test\n")
    assert "Exception ignored" in (out / "seed3.err").read_text()


def test_a_demo_that_failed_has_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"seed 1 ended with code 3: see .*seed1\.err"):
        demo_seeds.run_demo(1, tmp_path / "failing")


def test_a_demo_that_printed_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"seed 0 printed no JSON object: see .*seed0\.log"):
        demo_seeds.run_demo(0, tmp_path / "silent")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}\n', {"a": 1}),
        ('{"a": 1}\n{"a": 2}\nbye\n', {"a": 2}),
        ('{"a": 1}\n{"a": 2\n', {"a": 1}),
        ('{"a": 1}\n[3]\n4\nnull\n', {"a": 1}),
        ("no numbers\n", None),
        ("", None),
    ],
)
def test_the_last_json_object_counts(text: str, found: dict[str, float] | None) -> None:
    assert last_object(text) == found


@pytest.mark.parametrize(
    ("values", "mean", "low", "high"),
    [
        # sd = sqrt(2) / 2, t(1) = 12.706: 0.5 +- 12.706 * 0.70711 / sqrt(2) = 0.5 +- 6.353
        ([0.0, 1.0], 0.5, -5.853, 6.853),
        # sd = 0.1, t(2) = 4.303: 0.6 +- 4.303 * 0.1 / sqrt(3) = 0.6 +- 0.24843
        ([0.5, 0.6, 0.7], 0.6, 0.35157, 0.84843),
        # Squares of the distances from 3: 4 + 1 + 0 + 1 + 4 = 10, sd = sqrt(10 / 4) = 1.58114;
        # t(4) = 2.776: 3 +- 2.776 * 1.58114 / sqrt(5) = 3 +- 1.96293
        ([1.0, 2.0, 3.0, 4.0, 5.0], 3.0, 1.03707, 4.96293),
        ([2.0, 2.0, 2.0], 2.0, 2.0, 2.0),
    ],
)
def test_mean_and_interval_are_those_of_student(
    values: list[float], mean: float, low: float, high: float
) -> None:
    summary = summarise(values)
    assert (summary["mean"], summary["values"]) == (pytest.approx(mean), values)
    assert summary["low"] == pytest.approx(low, abs=2e-5)
    assert summary["high"] == pytest.approx(high, abs=2e-5)


def test_one_value_has_no_interval() -> None:
    assert summarise([0.25]) == {"mean": 0.25, "low": None, "high": None, "values": [0.25]}


def test_the_table_is_that_of_the_distribution() -> None:
    # Closed forms: t(1) = tan(0.95 * pi / 2); t(2) = 0.95 * sqrt(2 / (1 - 0.95^2)).
    assert T_95[1] == pytest.approx(12.7062, abs=5e-4)
    assert T_95[2] == pytest.approx(4.3027, abs=5e-4)
    assert list(T_95) == list(range(1, 10))
    assert list(T_95.values()) == sorted(T_95.values(), reverse=True)


def test_the_last_line_has_every_number_over_all_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo_seeds", "--seeds", "3", "--out", str(tmp_path / "out"), "--json"])
    demo_seeds.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "solved": {"mean": 0.6, "low": 0.35157, "high": 0.84843, "values": [0.5, 0.6, 0.7]},
        "minutes": {"mean": 2.0, "low": 2.0, "high": 2.0, "values": [2.0, 2.0, 2.0]},
    }


def test_without_json_each_seed_is_shown_as_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo_seeds", "--seeds", "2", "--out", str(tmp_path / "out")])
    demo_seeds.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ['seed 0: {"solved": 0.5, "minutes": 2}', 'seed 1: {"solved": 0.6, "minutes": 2}']
    assert json.loads(lines[2])["solved"]["values"] == [0.5, 0.6]
