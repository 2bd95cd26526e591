"""Help at once: stand-ins for modules that `--help` imports and never uses.

Lightning and torchmetrics import transformers, matplotlib and torch's compiler wherever they are
installed, which takes longer than printing help. The process ends after printing, so nothing can miss
what a stand-in lacks. Nothing here runs in any other command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

UNUSED = ("transformers", "matplotlib", "torch._dynamo")


class StandIns(MetaPathFinder, Loader):
    """Finds the unused modules, and everything below them, as modules full of empty classes."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A specification for the unused modules only."""
        if any(fullname == name or fullname.startswith(f"{name}.") for name in UNUSED):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Give the module an empty class for every public name."""
        module.__getattr__ = _empty_class  # type: ignore[method-assign]


class _Open(type):
    """A class whose public attributes are empty classes again, as matplotlib.colors.Colormap needs."""

    def __getattr__(cls, name: str) -> type:
        return _empty_class(name)


class _Anything:
    """Made with any arguments; as a decorator it leaves what it decorates."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, decorated: object) -> object:
        return decorated


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Open(name, (_Anything,), {})


def skip_unused_imports() -> None:
    """From now on, import stand-ins instead of the unused modules."""
    sys.meta_path.insert(0, StandIns())
