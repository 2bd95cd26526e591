"""The doctor's findings as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlef_lightning.execution.guarantees import GUARANTEES, NOT_STOPPED, NOT_STOPPED_BY, REMEDIES

if TYPE_CHECKING:
    from rlef_lightning.execution.doctor import Examination

_WIDE = 130
"""Columns of a terminal that has room for what the guarantees mean."""


def print_table(examinations: Sequence[Examination], machine: Mapping[str, str]) -> None:
    """Backends by guarantees, then every gap in words."""
    console = Console()
    for name, found in machine.items():
        console.print(f"{name}: {escape(found)}", highlight=False)
    console.print(_table(examinations, meanings=console.width >= _WIDE))
    for each in examinations:
        for line in _remarks(each):
            console.print(line, highlight=False)
    console.print("\n[bold]no backend stops[/]")
    for weakness in NOT_STOPPED:
        console.print(f"  {weakness}", highlight=False)


def _table(examinations: Sequence[Examination], meanings: bool) -> Table:
    table = Table("guarantee", title="What holds on this machine")
    if meanings:
        table.add_column("of each run of a program")
    for each in examinations:
        table.add_column(each.name, justify="center", no_wrap=True)
    for guarantee in GUARANTEES:
        cells = [_cell(each, guarantee.name) for each in examinations]
        table.add_row(guarantee.name, *[guarantee.meaning] * meanings, *cells)
    table.add_row("[bold]all promised[/]", *[""] * meanings, *(_summary(each) for each in examinations))
    return table


def _cell(examination: Examination, name: str) -> str:
    for finding in examination.findings:
        if finding.name == name and finding.held:
            return "[green]held[/]"
        if finding.name == name:
            return "[red]BROKEN[/]" if name in examination.promised else "[yellow]not held[/]"
    return "[dim]-[/]"


def _summary(examination: Examination) -> str:
    if examination.status != "started":
        return f"[dim]{examination.status}[/]"
    return "[green]yes[/]" if examination.keeps_promises else "[red]NO[/]"


def _remarks(examination: Examination) -> list[str]:
    """Lines under the table: why it has not started, gaps with what to change, and what no test shows."""
    lines = [f"\n[bold]{examination.name}[/]: {examination.status}"]
    if examination.status == "started":
        lines[0] += f", self-test in {examination.selftest_s:.1f} s"
    lines += [f"  {escape(examination.reason)}"] if examination.reason else []
    lines += [
        f"  not held: {finding.name}: {escape(finding.reason)}. To change it, {REMEDIES[finding.name]}"
        for finding in examination.findings
        if not finding.held
    ]
    lines += [f"  wall missing: {escape(wall)}" for wall in examination.walls_missing]
    return lines + [f"  not stopped: {weakness}" for weakness in NOT_STOPPED_BY[examination.name]]
