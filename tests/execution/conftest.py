"""One executor for all tests of the room; after each test its runners must be idle and well."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from sandboxing import CANARY, Sandbox

from rlef_lightning.execution import SubprocessExecutor


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One event loop for all tests."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def shared(loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """The executor that is started once; its trainer's environment holds a secret."""
    os.environ["RLEF_TEST_SECRET"] = CANARY
    executor = SubprocessExecutor(workers=2)
    yield Sandbox(executor, loop)
    loop.run_until_complete(executor.close())


@pytest.fixture
def sandbox(shared: Sandbox) -> Iterator[Sandbox]:
    """The shared executor, checked for its health after the test."""
    yield shared
    shared.assert_healthy()
