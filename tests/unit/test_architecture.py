"""The rules of the house: which room may import which, and how long files and functions may be.

    types, errors <- middle rooms <- rollout <- ranks
        <- evaluation, scoring, checks, collecting, resuming, shards <- writing, continuing
        <- sharded <- loaders, updating
        <- module, datamodule, callbacks, plan <- cli

The middle rooms do not import each other. Imports under TYPE_CHECKING are for annotations only; they may
name what is not installed, but obey the order of the rooms all the same, save between the parts of a run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import rlef_lightning

PACKAGE = Path(rlef_lightning.__file__).parent
NAME = "rlef_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))

MIDDLE = {"problems", "execution", "dialogue", "generation", "learning", "models", "metrics"}
LAYERS: list[set[str]] = [
    {"types", "errors"},
    MIDDLE,
    {"rollout"},
    {"ranks"},
    {"evaluation", "scoring", "checks", "collecting", "syncing", "resuming", "stopping", "shards", "placing"},
    {"writing", "continuing"},
    {"sharded"},
    {"loaders", "updating"},
    {"module", "datamodule", "callbacks", "plan"},
    {"cli", "fast_help"},
]
MAY_IMPORT = {
    "vllm": {f"generation/vllm{part}.py" for part in ("", "_ranks", "_requests", "_weights", "_worker")},
    "lightning": {
        "module.py",
        "datamodule.py",
        "checks.py",
        "sharded.py",
        "stopping.py",
        "callbacks",
        "cli.py",
    },
    "torch": {
        "learning",
        "models",
        "metrics",
        "generation/vllm.py",
        "generation/vllm_ranks.py",
        "generation/vllm_weights.py",
        "generation/following.py",
        "ranks.py",
        "syncing.py",
        "shards.py",
        "writing.py",
        "sharded.py",
        "loaders.py",
        "scoring.py",
        "updating.py",
        "module.py",
        "datamodule.py",
        "callbacks",
        "plan",
    },
}
"""Files, or whole rooms, that may import these at run time."""
CHEAP = ("", ".errors", ".types", ".problems", ".execution", ".dialogue")
HEAVY = {"torch", "lightning", "vllm", "transformers", "pyarrow"}

LONGEST_FILE = 350
LONGEST_FUNCTION = 60


@dataclass(frozen=True)
class Import:
    """One imported module."""

    file: str
    line: int
    target: str
    typing_only: bool

    @property
    def room(self) -> str:
        """The room of the file that imports."""
        return room_of(self.file)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def room_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def absolute(node: ast.ImportFrom, file: str) -> str:
    """The module that is imported from, by its whole name."""
    if node.level == 0:
        return node.module or ""
    folder = [NAME, *file.split("/")[:-1]]
    parts = folder[: len(folder) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def imports_in(source: str, file: str) -> Iterator[Import]:
    """Every import of a file, in functions too; `from package import name` names package.name."""
    tree = ast.parse(source)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in node.body
        for inner in ast.walk(child)
    }
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, file)
            targets = [f"{NAME}.{alias.name}" for alias in node.names] if module == NAME else [module]
        for target in targets:
            yield Import(file, node.lineno, target, node in typing_only)


IMPORTS = [found for path in FILES for found in imports_in(path.read_text(), relative(path))]
INSIDE = [found for found in IMPORTS if found.target.split(".", maxsplit=1)[0] == NAME]


def layer_of(room: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def target_room(found: Import) -> str:
    return found.target.split(".")[1]


def breaks_the_order(found: Import) -> bool:
    """Downwards only, or within one room; the parts of a run may name each other in annotations."""
    source, target = found.room, target_room(found)
    if source == target:
        return False
    above, below = layer_of(source), layer_of(target)
    parts_of_a_run = above == below == layer_of("module")
    together = above == below and source in ("types", "errors", "cli", "fast_help")
    return not (below < above or together or (parts_of_a_run and found.typing_only))


def breaks_a_monopoly(found: Import, library: str) -> bool:
    """Outside the allowed places; for annotations anywhere, but for lightning and vllm."""
    if found.target.split(".", maxsplit=1)[0] != library:
        return False
    allowed = MAY_IMPORT[library]
    at_home = found.file in allowed or found.room in allowed
    return not at_home and not (found.typing_only and library == "torch" and found.room == "generation")


def test_every_room_has_its_place() -> None:
    rooms = {room_of(relative(path)) for path in FILES} - {"__init__"}
    assert rooms <= set().union(*LAYERS), "a new room: say in LAYERS what it may import"
    assert len(INSIDE) > 100


def test_imports_go_one_way() -> None:
    assert [str(found) for found in INSIDE if breaks_the_order(found)] == []


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    assert any(found.target.split(".")[0] == library for found in IMPORTS)
    assert [str(found) for found in IMPORTS if breaks_a_monopoly(found, library)] == []


@pytest.mark.parametrize("room", ["types", "errors", "problems", "execution", "dialogue", "rollout"])
def test_torch_is_not_even_named_here(room: str) -> None:
    named = [found for found in IMPORTS if found.room == room and found.target.split(".")[0] == "torch"]
    assert named == []


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("types.py", "from rlef_lightning.problems import Split", breaks_the_order),
        ("dialogue/new.py", "import rlef_lightning.execution", breaks_the_order),
        ("learning/new.py", "def f():\n    from rlef_lightning import models", breaks_the_order),
        ("rollout/new.py", "from rlef_lightning.module import RLEFModule", breaks_the_order),
        ("execution/inside/new.py", "from ...models.networks import x", breaks_the_order),
        ("module.py", "from rlef_lightning.datamodule import Phase", breaks_the_order),
        ("rollout/new.py", "import lightning.pytorch as L", lambda f: breaks_a_monopoly(f, "lightning")),
        ("module.py", "from vllm import LLM", lambda f: breaks_a_monopoly(f, "vllm")),
        ("dialogue/new.py", "import torch.nn", lambda f: breaks_a_monopoly(f, "torch")),
        ("generation/engine.py", "import torch", lambda f: breaks_a_monopoly(f, "torch")),
    ],
)
def test_a_breach_is_seen(file: str, source: str, rule: object) -> None:
    (found,) = imports_in(source, file)
    assert rule(found)  # type: ignore[operator]


def test_annotations_may_name_what_the_code_may_not_load() -> None:
    guard = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    torch = list(imports_in(guard + "import torch", "generation/engine.py"))[-1]
    module = list(imports_in(guard + f"from {NAME}.module import RLEFModule", "datamodule.py"))[-1]
    other_room = list(imports_in(guard + f"from {NAME}.models import x", "learning/new.py"))[-1]
    assert torch.typing_only
    assert not breaks_a_monopoly(torch, "torch")
    assert not breaks_the_order(module)
    assert breaks_the_order(other_room)


def loaded_by(*modules: str) -> set[str]:
    """The heavy libraries that a fresh interpreter loads with these modules."""
    code = f"import sys, {', '.join(modules)}; print(*sorted(set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stdout.split())


def test_the_cheap_rooms_load_nothing_heavy() -> None:
    assert loaded_by(*(NAME + room for room in CHEAP)) == set()


def test_rollouts_load_neither_torch_nor_an_engine() -> None:
    assert loaded_by(f"{NAME}.rollout", f"{NAME}.generation", f"{NAME}.cli") == set()


def test_what_is_heavy_would_be_seen() -> None:
    assert loaded_by("pyarrow") == {"pyarrow"}


def test_no_file_is_too_long() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    assert {file: lines for file, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{relative(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}
