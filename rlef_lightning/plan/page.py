"""A plan -> tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from rlef_lightning.plan.hardware import GIB

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def show(plan: dict[str, Any], console: Console | None = None) -> None:
    """Print it."""
    console = console or Console()
    console.print(_pairs("Batches", plan["batches"]))
    console.print(_pairs("Assumed lengths (tokens, turns)", plan["lengths"]))
    console.print(_memory(plan))
    console.print(_pairs("Moved to each GPU", {k: in_bytes(v) for k, v in plan["traffic"].items()}))
    console.print(_pairs("Estimated seconds of an epoch", plan["seconds"]))
    for note in plan["assumptions"]:
        console.print(f"assumed: {note}", style="dim", soft_wrap=True)
    for finding in plan["findings"]:
        style = "red" if finding["kind"] == "wrong" else "yellow"
        console.print(f"{finding['kind']}: {finding['text']}", style=style, soft_wrap=True)
    if not plan["findings"]:
        console.print("nothing that will not fit or looks wrong")


def _pairs(title: str, values: dict[str, Any]) -> Table:
    table = Table("", "", title=title, show_header=False)
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _number(value))
    return table


def _memory(plan: dict[str, Any]) -> Table:
    phases = ("sampling", "scoring", "updating")
    gpu = plan["hardware"]["memory_bytes"] / GIB
    table = Table("GiB", *phases, "host", title=f"Memory of each GPU ({gpu:.1f} GiB)")
    columns = [plan["memory"][phase] for phase in (*phases, "host")]
    for item in dict.fromkeys(name for column in columns for name in column):
        table.add_row(item, *(f"{column[item] / GIB:.1f}" if item in column else "" for column in columns))
    table.add_row("sum", *(f"{sum(column.values()) / GIB:.1f}" for column in columns), style="bold")
    return table


def _number(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def in_bytes(value: float) -> str:
    """Example: in_bytes(1.5e9) == "1.5 GB"."""
    return next((f"{value / size:.1f} {unit}" for size, unit in _UNITS if value >= size), f"{value:.0f} B")
