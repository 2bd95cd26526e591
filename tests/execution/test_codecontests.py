"""Accepted programs of real contests are accepted here, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sandboxing import Sandbox

from rlef_lightning.types import CODECONTESTS_RULE, Limits

DATA = Path(__file__).parents[3] / "shared" / "data" / "codecontests_dev.parquet"
PYTHON3 = 3
LOST_A_LINE = {("1056_D. Decorate Apple Tree", "1\n")}
"""Tests whose input misses an empty last line in the file; plain Python fails on them as well."""


def rows(count: int) -> list[dict[str, Any]]:
    """The first problems of the file."""
    parquet = pytest.importorskip("pyarrow.parquet")
    if not DATA.exists():
        pytest.skip(f"the problem file is not there: {DATA.name}")
    columns = ["name", "public_tests", "private_tests", "solutions"]
    found: list[dict[str, Any]] = parquet.read_table(DATA, columns=columns).slice(0, count).to_pylist()
    return found


def cases_of(row: dict[str, Any], private: int | None) -> list[tuple[str, str]]:
    """All public and the first private tests."""
    public, hidden = (
        list(zip(row[kind]["input"], row[kind]["output"], strict=True))
        for kind in ("public_tests", "private_tests")
    )
    return [test for test in public + hidden[:private] if (row["name"], test[0]) not in LOST_A_LINE]


def assert_accepted(sandbox: Sandbox, row: dict[str, Any], private: int | None) -> None:
    """Every shipped Python 3 solution passes."""
    languages, solutions = row["solutions"]["language"], row["solutions"]["solution"]
    accepted = [code for kind, code in zip(languages, solutions, strict=True) if kind == PYTHON3]
    assert accepted
    for code in accepted:
        report = sandbox.judge(code, cases_of(row, private), Limits(), CODECONTESTS_RULE)
        assert report.passed, (row["name"], [r for r in report.results if not r.passed][:1])


def test_shipped_solutions_of_the_first_problems(shared: Sandbox) -> None:
    for row in rows(20):
        assert_accepted(shared, row, private=5)
