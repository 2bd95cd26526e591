"""Packages in the Kattis problem format, one a JSON line -> problems: python -m tools.prepare.kattis in out

A line has the fields name, statement_tex, validator_flags (of the default validator, or null), validation
(null, or "custom" with the validator's Python source in `checker`) and tests: a list of {kind: "sample" or
"secret", name, input, answer}. Sample tests become the public ones. The data says no time limit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlef_lightning.errors import DataError
from rlef_lightning.problems import write_json_lines
from rlef_lightning.types import Limits, OutputRule, Problem, TestCase
from tools.prepare.files import field, read_rows, run_tool

_TOLERANCES = {
    "float_tolerance": ("absolute_tolerance", "relative_tolerance"),
    "float_absolute_tolerance": ("absolute_tolerance",),
    "float_relative_tolerance": ("relative_tolerance",),
}


def read_packages(path: Path, cpu_s: float) -> list[Problem]:
    """The problems of a file; raises DataError."""
    return [problem_of(row, f"{path}:{number}", cpu_s) for number, row in enumerate(read_rows(path), start=1)]


def problem_of(row: dict[str, Any], where: str, cpu_s: float) -> Problem:
    """One package as a problem; raises DataError."""
    tests = {"sample": [], "secret": []}  # type: dict[str, list[TestCase]]
    for test in field(row, "tests", where):
        found, answer = field(test, "input", where), field(test, "answer", where)
        tests[field(test, "kind", where)].append(TestCase(stdin=found, expected_stdout=answer))
    return Problem(
        id=field(row, "name", where),
        statement=field(row, "statement_tex", where),
        public_tests=tuple(tests["sample"] or tests["secret"]),
        private_tests=tuple(tests["secret"] or tests["sample"]),
        limits=Limits(cpu_s=cpu_s, wall_s=3 * cpu_s + 10),
        rule=rule_of(row, where),
        metadata={"source": str(row.get("source", "kattis"))},
    )


def rule_of(row: dict[str, Any], where: str) -> OutputRule:
    """The default validator's flags as a rule: tokens, case ignored, numbers as text unless tolerant."""
    if row.get("validation"):
        if not row.get("checker"):
            raise DataError(f"{where}: has a validator of its own; needed: its source in the field 'checker'")
        return OutputRule(checker=row["checker"])
    fields: dict[str, Any] = {"ignore_case": True, "absolute_tolerance": 0.0, "relative_tolerance": 0.0}
    flags = (row.get("validator_flags") or "").split()
    while flags:
        flag = flags.pop(0)
        if flag == "case_sensitive":
            fields["ignore_case"] = False
        elif flag == "space_change_sensitive":
            fields["exact_whitespace"] = True
        elif flag in _TOLERANCES and flags:
            fields |= dict.fromkeys(_TOLERANCES[flag], float(flags.pop(0))) | {"integers_as_floats": True}
        else:
            raise DataError(f"{where}: unknown validator flag {flag!r}; known: {', '.join(_TOLERANCES)}, "
                            "case_sensitive, space_change_sensitive")  # fmt: skip
    return OutputRule(**fields)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a .jsonl or .jsonl.gz file of packages")
    parser.add_argument("target", type=Path, help="the .jsonl or .jsonl.gz file to write")
    parser.add_argument("--cpu-s", type=float, default=10.0, help="time limit of all; default: %(default)s")
    arguments = parser.parse_args()
    problems = read_packages(arguments.source, arguments.cpu_s)
    write_json_lines(arguments.target, problems)
    print(f"{len(problems)} problems written to {arguments.target}")


if __name__ == "__main__":
    run_tool(main)
