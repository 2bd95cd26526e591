"""Rows of logged numbers, one per epoch -> one PNG of learning curves.

Draws what is there: a key that no row has, or a panel without any key, is left out. Reads no logs and
knows no trainer; matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from rlef_lightning.callbacks.report_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPOCH_KEY = "epoch"
"""The x value of a row; its place in the list where the key is missing."""

INK, FAINT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
COLOURS = ("#2563a6", "#c2571a", "#2f7d5b", "#7d4fa3", "#8a6d1d", "#b03060")
"""Told apart by people with the common colour deficiencies, dark enough on white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes: which keys it shows and where it stands in the 2 x 3 grid."""

    title: str
    unit: str
    patterns: tuple[str, ...]
    """Shell patterns of the keys, drawn in the order of the rows."""
    row: int
    columns: tuple[int, int]
    """First and last column, counted from 1."""
    shares: bool = False
    """True: numbers in [0, 1], shown as per cent."""


PANELS = (
    Panel(
        title="Solve rate",
        unit="share of episodes",
        patterns=("*solve_rate*",),
        row=0,
        columns=(1, 2),
        shares=True,
    ),
    Panel(
        title="KL to the initial policy",
        unit="nats per token",
        patterns=("kl", "*/kl", "*/kl_*"),
        row=0,
        columns=(3, 3),
    ),
    Panel(
        title="Entropy of the policy",
        unit="nats per token",
        patterns=("entropy", "*/entropy", "*/entropy_*"),
        row=1,
        columns=(1, 1),
    ),
    Panel(
        title="Value fit and clipping",
        unit="share (at most 1)",
        patterns=("*explained_variance*", "*clip_fraction*"),
        row=1,
        columns=(2, 2),
    ),
    Panel(
        title="Throughput by phase",
        unit="tokens per second",
        patterns=("*tokens_per_s*",),
        row=1,
        columns=(3, 3),
    ),
)


def plot_curves(path: Path, rows: list[dict[str, float]], title: str) -> None:
    """Write the learning curves of `rows` to `path`: a PNG of 1400 x 900 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # A figure of its own rather than pyplot's: no global state, no display, safe in any thread.
    figure = Figure(figsize=(14, 9), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.16))
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=17, color=INK, parse_math=False)
    _draw_panels(figure, rows)
    image = BytesIO()
    figure.savefig(image, format="png")
    write_atomically(path, image.getvalue())


def _draw_panels(figure: Figure, rows: Sequence[dict[str, float]]) -> None:
    keys = [*dict.fromkeys(key for row in rows for key in row)]
    # A part of its own for each row: the legend beside the wide panel takes no width from the row below.
    parts = [row[0] for row in figure.subfigures(2, 1, squeeze=False)]
    drawn = 0
    for panel in PANELS:
        shown = [key for key in keys if _matches(key, panel.patterns) and _points(rows, key)]
        if shown:
            _draw(parts[panel.row].add_subplot(1, 3, panel.columns), panel, rows, shown)
            drawn += 1
    if not drawn:
        figure.text(0.5, 0.5, "No numbers were logged yet.", ha="center", fontsize=14, color=FAINT)


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _points(rows: Sequence[dict[str, float]], key: str) -> list[tuple[float, float]]:
    """(epoch, number) of the rows that have the key, finite numbers only."""
    points = [(row.get(EPOCH_KEY, float(i)), row[key]) for i, row in enumerate(rows) if key in row]
    return [point for point in points if all(map(math.isfinite, point))]


def _draw(axes: Axes, panel: Panel, rows: Sequence[dict[str, float]], keys: Sequence[str]) -> None:
    colours, labels = _colours(keys), _labels(keys, panel)
    for key in keys:
        x, y = zip(*_points(rows, key), strict=True)
        turn = _turn(key)
        axes.plot(
            x,
            y,
            label=labels[key],
            color=colours[key],
            linewidth=1.3 if turn else 2.2,
            # Turns of one split share its colour: dotted for the first, then ever longer dashes.
            linestyle=(0, (1 + 2 * (turn - 1), 2)) if turn else "-",
            marker="o" if len(x) <= 30 and not turn else None,
            markersize=4,
        )
    _finish(axes, panel)
    _legend(axes, panel)


def _colours(keys: Sequence[str]) -> dict[str, str]:
    """A colour for each key; the turns of one solve rate share theirs."""
    stems = [*dict.fromkeys(_stem(key) for key in keys)]
    return {key: COLOURS[stems.index(_stem(key)) % len(COLOURS)] for key in keys}


def _stem(key: str) -> str:
    return key.rpartition("_turn_")[0] if _turn(key) else key


def _turn(key: str) -> int:
    """Number of the turn that the key is about, 0 for none: 2 of `train/solve_rate_turn_2`."""
    _, found, number = key.rpartition("_turn_")
    return int(number) if found and number.isdecimal() else 0


def _labels(keys: Sequence[str], panel: Panel) -> dict[str, str]:
    """Words for the legend, without what all of them or the title say already.

    Example: `train/solve_rate_turn_2` -> `train, by turn 2`
    """
    splits = {key: key.rpartition("/")[0].replace("/", " ") for key in keys}
    all_the_same = len(keys) > 1 and len({*splits.values()}) == 1
    return {key: _label(key, "" if all_the_same else splits[key], panel) for key in keys}


def _label(key: str, split: str, panel: Panel) -> str:
    name = _stem(key).rpartition("/")[2].replace("_tokens_per_s", "").replace("_", " ")
    plain = "" if name in panel.title.lower() else name
    turn = f"by turn {_turn(key)}" if _turn(key) else ""
    return ", ".join(word for word in (split, plain, turn) if word) or name


def _finish(axes: Axes, panel: Panel) -> None:
    """Titles, units and a quiet frame."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title(panel.title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel("epoch (one collection of rollouts)", fontsize=10.5, color=FAINT)
    axes.set_ylabel(panel.unit, fontsize=10.5, color=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.margins(x=0.02, y=0.12)
    if panel.shares:
        axes.set_ylim(bottom=0.0, top=min(1.02, axes.get_ylim()[1]))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelsize=10.5, length=0)


def _legend(axes: Axes, panel: Panel) -> None:
    """Outside the axes, where it hides no line: beside a wide panel, below a narrow one."""
    wide = panel.columns[0] != panel.columns[1]
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0) if wide else (-0.02, -0.16),
        frameon=False,
        fontsize=10.5,
        labelcolor=INK,
    )
