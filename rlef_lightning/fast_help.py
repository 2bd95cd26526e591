"""Help at once: stand-ins for modules that `--help` imports and never uses.

Lightning and this package import torch, and with it transformers, matplotlib and torch's compiler, which
takes much longer than printing help. The process ends after printing, so nothing can miss what a stand-in
lacks; where a library wants more of one than it has, help starts again without. No other command uses them.
"""

from __future__ import annotations

import os
import sys
from abc import ABCMeta
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

# The options of a command name no type of these.
UNUSED = ("torch", "torchmetrics", "transformers", "matplotlib")
# The options of a single class may come from torch, as those of DDPStrategy do.
UNUSED_BY_CLASSES = ("torch._dynamo", "transformers", "matplotlib")
_HELP = ("-h", "--help")
_WITHOUT = "RLEF_HELP_WITHOUT_STAND_INS"


def unused_modules(arguments: Sequence[str]) -> tuple[str, ...]:
    """The modules that a command line imports and does not use; empty if it is more than a question for help.

    Args:
        arguments: The words after `rlef`.
    """
    if os.environ.get(_WITHOUT):
        return ()
    if any(word in _HELP for word in arguments):
        # Further options are read before help is printed, and their values may be anything.
        alone = not any(word.startswith("-") for word in arguments if word not in _HELP)
        return UNUSED if alone else UNUSED_BY_CLASSES
    asks_for_class = any(word.partition("=")[0].endswith(".help") for word in arguments)
    return UNUSED_BY_CLASSES if asks_for_class else ()


def start_without_stand_ins() -> NoReturn:
    """The same command again, with every real module."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _WITHOUT: "1"})


class StandIns(MetaPathFinder, Loader):
    """Finds the unused modules, and everything below them, as modules full of empty classes."""

    def __init__(self, unused: Sequence[str]) -> None:
        self._unused = tuple(unused)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A specification for the unused modules only."""
        if any(fullname == name or fullname.startswith(f"{name}.") for name in self._unused):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Give the module an empty class for every public name."""
        module.__getattr__ = _empty_class  # type: ignore[method-assign]


class _Open(ABCMeta):
    """A class whose public attributes are empty classes again, as matplotlib.colors.Colormap needs."""

    def __getattr__(cls, name: str) -> type:
        return _empty_class(name)

    def register(cls, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        """Registers of transformers are called on import; that of abstract classes takes fewer arguments."""


class _Anything:
    """Made with any arguments; as a decorator it leaves what it decorates."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, decorated: object) -> object:
        return decorated

    def __getattr__(self, name: str) -> type:
        return _empty_class(name)

    def __class_getitem__(cls, parameters: object) -> type:
        return cls


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Open(name, (_Anything,), {})


def skip_imports(unused: Sequence[str]) -> None:
    """From now on, import stand-ins instead of these modules."""
    sys.meta_path.insert(0, StandIns(unused))
