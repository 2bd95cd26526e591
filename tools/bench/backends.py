"""The executors that the benchmarks know by a short name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from types import MappingProxyType

import rlef_lightning.execution
from rlef_lightning.errors import ConfigError, ExecutorError
from rlef_lightning.execution.client import DaemonExecutor

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "subprocess": "SubprocessExecutor",
        "nsjail": "NsjailExecutor",
        "bubblewrap": "BubblewrapExecutor",
        "firejail": "FirejailExecutor",
    }
)
"""Names of classes in rlef_lightning.execution."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of an executor is asked with."""
    parser.add_argument("--backend", choices=BACKENDS, default="subprocess")
    parser.add_argument("--workers", type=int, default=2, help="programs that run at the same time")
    parser.add_argument("--json", action="store_true", help="only the JSON object")


def make_executor(backend: str, workers: int) -> DaemonExecutor:
    """An executor that is not started; ends the program where this version has no such class."""
    kind = getattr(rlef_lightning.execution, BACKENDS[backend], None)
    if kind is None:
        sys.exit(f"--backend {backend}: rlef_lightning.execution has no {BACKENDS[backend]}")
    try:
        executor: DaemonExecutor = kind(workers=workers)
    except ConfigError as error:
        sys.exit(f"--backend {backend}: {error}")
    return executor


async def started(backend: str, workers: int) -> DaemonExecutor:
    """A live executor; ends the program with the executor's own words where it does not start."""
    executor = make_executor(backend, workers)
    try:
        await executor.start()
    except ExecutorError as error:
        sys.exit(f"--backend {backend} does not start: {error}")
    return executor
