"""What `--help` shows: a sentence for every option, the same with stand-ins as with the real libraries."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from rlef_lightning.cli import main
from rlef_lightning.fast_help import UNUSED, UNUSED_BY_CLASSES, unused_modules

pytestmark = pytest.mark.slow

COMMANDS = ("fit", "validate", "test", "predict")
SHIPPED = (
    "data.engine.help=rlef_lightning.generation.VLLMEngine",
    "data.executor.help=rlef_lightning.execution.SubprocessExecutor",
    "data.problems.help=rlef_lightning.problems.CodeContests",
    "data.problems.help=rlef_lightning.problems.JsonLines",
    "data.problems.help=rlef_lightning.problems.MicroProblems",
    "trainer.callbacks.help=rlef_lightning.callbacks.EvaluationFiles",
    "trainer.callbacks.help=rlef_lightning.callbacks.LearningCurve",
    "trainer.callbacks.help=rlef_lightning.callbacks.SolutionWriter",
)
ENVIRONMENT = {**os.environ, "COLUMNS": "100"}
WITHOUT = {**ENVIRONMENT, "RLEF_HELP_WITHOUT_STAND_INS": "1"}


def output(*arguments: str, environment: dict[str, str] = ENVIRONMENT, first: str = "") -> str:
    """What `rlef ARGUMENTS` prints in a process of its own, after some Python lines."""
    code = f"{first}\nfrom rlef_lightning.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def sentences(printed: str) -> dict[str, str]:
    """Option -> what help says of it, without its type and default."""
    entries = re.split(r"\n(?=  -)", printed)[1:]
    found = {}
    for entry in entries:
        names, text = re.split(r"\s{2,}", entry.partition("\n\n")[0].strip(), maxsplit=1)
        name = names.split()[0].strip("-,")
        found[name] = re.sub(r"\((required, )?type: .*", "", re.sub(r"\s+", " ", text)).strip()
    return found


def words(printed: str) -> str:
    """The text without line breaks, members of unions sorted.

    The typing module keeps the first order in which any library wrote a union, so what is loaded changes it.
    """
    return re.sub(
        r"Union\[([^][]*)\]",
        lambda union: f"Union[{', '.join(sorted(union[1].split(', ')))}]",
        re.sub(r"\s+", " ", printed),
    )


def unexplained(said: dict[str, str]) -> list[str]:
    """Options with nothing but a type."""
    return [name for name, sentence in said.items() if not re.search(r"\w\w", sentence)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_something_of_every_option(command: str) -> None:
    printed = output(command, "--help")
    said = sentences(printed)
    options = set(re.findall(r"--([\w.]+)", printed.partition("\n\n")[0]))
    assert {"trainer.max_epochs", "model.model_folder", "data.play.turn_limit", "data.engine"} <= options
    assert options - said.keys() <= {"config"}  # listed under its short name
    assert unexplained(said) == []
    assert said["model.seed"] == "Of the value network's random output layer, and of adapters."


@pytest.mark.parametrize("option", SHIPPED)
def test_help_says_something_of_every_option_of_a_shipped_class(
    option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlef"])
    with pytest.raises(SystemExit) as end:
        main(["fit", f"--{option}"])
    printed = capsys.readouterr().out
    said = sentences(printed)
    assert end.value.code == 0
    assert said
    assert unexplained(said) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        *((command, "--help") for command in COMMANDS),
        ("fit", "--data.engine.help=rlef_lightning.generation.VLLMEngine"),
        ("fit", "--trainer.strategy.help=DDPStrategy"),
    ],
    ids=" ".join,
)
def test_stand_ins_change_nothing_in_what_help_prints(arguments: tuple[str, ...]) -> None:
    assert words(output(*arguments)) == words(output(*arguments, environment=WITHOUT))


def test_help_loads_none_of_the_unused_libraries() -> None:
    report = (
        "import atexit, sys\n"
        "atexit.register(lambda: print([name for name, module in sys.modules.items() if module is not None"
        f" and name.partition('.')[0] in {UNUSED!r} and getattr(module, '__file__', None)]))"
    )
    assert output("fit", "--help", first=report).splitlines()[-1] == "[]"


def test_help_comes_without_stand_ins_where_one_lacks_something() -> None:
    broken = (
        "import rlef_lightning.fast_help as fast_help\n"
        "def empty_class(name): raise AttributeError('this version wants more')\n"
        "fast_help._empty_class = empty_class"
    )
    assert "--model.model_folder" in output("fit", "--help", first=broken)


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--help"], UNUSED),
        (["fit", "-h"], UNUSED),
        (["fit", "--config", "a.yaml", "--help"], UNUSED_BY_CLASSES),
        (["fit", "--trainer.strategy.help", "DDPStrategy"], UNUSED_BY_CLASSES),
        (["fit", "--trainer.strategy.help=DDPStrategy"], UNUSED_BY_CLASSES),
        (["fit", "--config", "a.yaml"], ()),
        (["fit", "--config", "a.yaml", "--print_config"], ()),
        ([], ()),
    ],
)
def test_only_a_question_for_help_gets_stand_ins(arguments: list[str], unused: tuple[str, ...]) -> None:
    assert unused_modules(arguments) == unused


def test_a_program_that_asks_for_help_keeps_its_libraries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlef"])
    finders = list(sys.meta_path)
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "--model.model_folder" in capsys.readouterr().out
    assert sys.meta_path == finders
