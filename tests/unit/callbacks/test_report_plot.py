"""Learning curves: which keys are drawn, how they are named, and the size of the image."""

import struct
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rlef_lightning.callbacks.report_plot import PANELS, _draw_panels, _labels, plot_curves

ROWS = [
    {
        "epoch": float(epoch),
        "train/solve_rate": 0.1 * epoch,
        "train/solve_rate_turn_1": 0.05 * epoch,
        "validation/solve_rate": 0.08 * epoch,
        "train/kl": 0.01,
        "train/entropy": 0.7,
        "train/value_explained_variance": 0.5,
        "train/clip_fraction": 0.1,
        "throughput/generation_tokens_per_s": 2000.0,
        "throughput/training_tokens_per_s": 900.0,
        "train/loss": 1.0,
    }
    for epoch in range(4)
]


def drawn(rows: list[dict[str, float]]) -> dict[str, list[str]]:
    """Title -> the labels of its lines."""
    figure = Figure()
    _draw_panels(figure, rows)
    axes = [a for part in figure.subfigs for a in part.axes]
    return {a.get_title(loc="left"): [str(line.get_label()) for line in a.lines] for a in axes}


def test_image_has_the_stated_size(tmp_path: Path) -> None:
    path = tmp_path / "new" / "curves.png"
    plot_curves(path, ROWS, "costs $5 <b>")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (1400, 900)
    assert [*path.parent.iterdir()] == [path]


def test_panels_and_labels() -> None:
    assert drawn(ROWS) == {
        "Solve rate": ["train", "train, by turn 1", "validation"],
        "KL to the initial policy": ["train"],
        "Entropy of the policy": ["train"],
        "Value fit and clipping": ["value explained variance", "clip fraction"],
        "Throughput by phase": ["generation", "training"],
    }


def test_missing_keys_and_numbers_are_not_drawn(tmp_path: Path) -> None:
    rows = [{"train/kl": float("nan")}, {"train/entropy": 0.7}, {"train/kl": float("inf"), "loss": 1.0}]
    assert drawn(rows) == {"Entropy of the policy": ["train"]}
    assert drawn([]) == {}
    plot_curves(tmp_path / "empty.png", [], "nothing yet")


@pytest.mark.parametrize("key", ["solve_rate", "validation/solve_rate_turn_12"])
def test_labels_of_single_keys(key: str) -> None:
    expected = {"solve_rate": "solve rate", "validation/solve_rate_turn_12": "validation, by turn 12"}
    assert _labels([key], PANELS[0]) == {key: expected[key]}
