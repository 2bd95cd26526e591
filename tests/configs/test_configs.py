"""Every config is parsed by the command line itself, which reads what it prints and names what it refuses."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlef_lightning.cli import main
from rlef_lightning.datamodule import RolloutDataModule
from rlef_lightning.module import RLEFModule

CONFIGS = Path(__file__).parents[2] / "configs"
BASES = sorted(CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(CONFIGS.glob("*/*.yaml"))
TINY = CONFIGS / "tiny.yaml"


def name_of(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


class CommandLine:
    """`rlef fit` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> tuple[Any, str, str]:
        """Exit code, stdout and stderr."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["fit", *map(str, arguments)])
        captured = self._capsys.readouterr()
        return end.value.code, captured.out, captured.err

    def printed(self, *arguments: str | Path) -> str:
        """The whole config that these arguments amount to."""
        code, out, err = self(*arguments, "--print_config")
        assert code == 0, err
        return out


@pytest.fixture
def rlef(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setattr(sys, "argv", ["rlef"])  # else Lightning warns of arguments that come twice
    return CommandLine(capsys)


def leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a config that is no mapping, with its place."""
    if not isinstance(config, dict):
        yield path, config
        return
    for key, value in config.items():
        yield from leaves(value, (*path, key))


def value_at(config: Any, path: tuple[str, ...]) -> Any:
    """Of a class that is given by values alone they are printed as its init_args."""
    for key in path:
        named = key not in config and "class_path" in config
        config = config["init_args"][key] if named else config[key]
    return config


def assert_holds(printed: Any, path: Path) -> None:
    """The printed config has every value of the file; lists, which may hold classes, are left out."""
    given = leaves(yaml.safe_load(path.read_text()))
    plain = [(place, value) for place, value in given if not isinstance(value, list)]
    assert [(*item, found) for item in plain if not agree(item[1], found := value_at(printed, item[0]))] == []


def agree(given: Any, found: Any) -> bool:
    """Equal, but for two short forms: a class by its last name, and 2e-7, which YAML takes for a string."""
    if isinstance(found, dict):
        found = found["class_path"]
    if isinstance(given, str) and isinstance(found, float):
        return float(given) == found
    return given == found or (isinstance(given, str) and str(found).endswith(f".{given}"))


def test_the_configs_are_found() -> None:
    assert TINY in BASES
    assert OVERLAYS


@pytest.mark.parametrize("path", BASES, ids=name_of)
def test_a_printed_config_prints_the_same_again(path: Path, rlef: CommandLine, tmp_path: Path) -> None:
    first = rlef.printed("--config", path)
    again = tmp_path / "printed.yaml"
    again.write_text(first)
    assert rlef.printed("--config", again) == first
    assert_holds(yaml.safe_load(first), path)


@pytest.mark.parametrize("name", ["8b.yaml", "70b.yaml"])
def test_each_value_of_a_large_config_says_where_it_is_from(name: str) -> None:
    lines = (CONFIGS / name).read_text().splitlines()
    values = [line for line in lines if re.match(r" *(- )?\w+: *[^ #]", line)]
    source = re.compile(r"  # (paper, sec\. [23](\.\d)?|ours: \S+ .+)")
    assert len(values) > 100
    assert [line for line in values if not source.search(line) or "{" in line] == []
    keys = [line for line in lines if re.match(r" *\w+: *(#.*)?$", line)]
    rest = [line for line in lines if line and not line.startswith("#")]
    assert len(values) + len(keys) == len(rest)


@pytest.mark.parametrize("path", OVERLAYS, ids=name_of)
def test_an_overlay_is_laid_over_the_tiny_config(path: Path, rlef: CommandLine) -> None:
    printed = yaml.safe_load(rlef.printed("--config", TINY, "--config", path))
    overlay, base = (dict(leaves(yaml.safe_load(file.read_text()))) for file in (path, TINY))
    assert overlay
    assert_holds(printed, path)
    # What the overlay does not speak of is as the base has it.
    kept = ("data", "prompts", "first")
    assert kept in overlay or value_at(printed, kept) == base[kept]


def test_an_objective_is_a_class_or_the_values_of_the_papers(rlef: CommandLine) -> None:
    plain = ("--model.objective.beta=0.1", "--model.objective.rewards.failed=-0.5")
    objective = yaml.safe_load(rlef.printed("--config", TINY, *plain))["model"]["objective"]
    assert objective["class_path"] == "rlef_lightning.learning.objectives.PPO"
    assert (objective["init_args"]["beta"], objective["init_args"]["rewards"]["failed"]) == (0.1, -0.5)
    code, _, err = rlef("--config", TINY, "--model.objective.beta=much")
    assert code not in (0, None)
    assert "much" in err


def test_the_command_line_has_the_last_word(rlef: CommandLine) -> None:
    printed = yaml.safe_load(rlef.printed("--config", TINY, "--data.play.turn_limit=7", "--model.seed", "3"))
    assert printed["data"]["play"]["turn_limit"] == 7
    assert printed["model"]["seed"] == 3


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--model.nonsense=1", "--model.nonsense=1"),
        ("--data.play.turns=1", "--data.play.turns=1"),
        ("--data.engine.init_args.nonsense=1", "'nonsense' is not accepted"),
        ("--data.engine.class_path=rlef_lightning.generation.NoEngine", "rlef_lightning.generation.NoEngine"),
    ],
)
def test_an_unknown_option_is_named(argument: str, named: str, rlef: CommandLine) -> None:
    code, out, err = rlef("--config", TINY, argument)
    assert code not in (0, None)
    assert named in err.rpartition("error: ")[2]
    assert out == ""


def test_an_unknown_option_of_a_file_is_named(rlef: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "mistyped.yaml"
    path.write_text("data: {play: {turns: 3}}\n")
    code, _, err = rlef("--config", TINY, "--config", path)
    assert code not in (0, None)
    assert "data.play.turns" in err.rpartition("error: ")[2]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("data.play.turn_limit", "x"),
        ("model.learning_rate", "fast"),
        ("data.long_prompts", "cut"),
        ("data.engine.init_args.dtype", "int8"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_its_option(option: str, value: str, rlef: CommandLine) -> None:
    code, _, err = rlef("--config", TINY, f"--{option}={value}")
    message = err.rpartition("error: ")[2]
    assert code not in (0, None)
    assert option.rpartition(".")[2] in message
    assert value in message


def test_a_missing_config_file_is_named(rlef: CommandLine) -> None:
    code, _, err = rlef("--config", "no-such-file.yaml")
    assert code not in (0, None)
    assert "no-such-file.yaml" in err.rpartition("error: ")[2]


@pytest.mark.parametrize("kind", [RLEFModule, RolloutDataModule])
def test_each_option_has_an_entry_in_the_docstring(kind: type) -> None:
    documented = re.findall(r"^    (\w+): \S", inspect.getdoc(kind) or "", flags=re.MULTILINE)
    options = [name for name in inspect.signature(kind).parameters if name != "self"]
    assert documented == options


@pytest.mark.parametrize("path", sorted((CONFIGS / "executor").glob("*.yaml")), ids=name_of)
def test_another_executor_keeps_the_settings_below_it(rlef: CommandLine, path: Path) -> None:
    printed = rlef.printed("--config", TINY, "--data.executor.init_args.workers=5", "--config", path)
    executor = yaml.safe_load(printed)["data"]["executor"]
    assert executor["class_path"] == yaml.safe_load(path.read_text())["data"]["executor"]["class_path"]
    assert executor["init_args"]["workers"] == 5
