"""One executor per backend for all tests of the room; after each test it must be idle and well."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from sandboxing import BACKENDS, CANARY, Sandbox, why_not

from rlef_lightning.execution import SubprocessExecutor


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of the shared executor are made with every backend; in the fast suite only those marked so."""
    if "backend_name" not in metafunc.fixturenames:
        return
    everywhere = metafunc.definition.get_closest_marker("every_backend") is not None
    names = [
        pytest.param(
            name, marks=() if everywhere or BACKENDS[name] is SubprocessExecutor else pytest.mark.slow
        )
        for name in BACKENDS
    ]
    metafunc.parametrize("backend_name", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    """Name of a backend that starts on this machine."""
    name: str = request.param
    if reason := why_not(name):
        pytest.skip(reason)
    return name


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One event loop for all tests."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def shared(backend_name: str, loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """The executor that is started once per backend; its trainer's environment holds a secret."""
    os.environ["RLEF_TEST_SECRET"] = CANARY
    executor = BACKENDS[backend_name](workers=2, recycle_after=1_000_000)  # else runners end of themselves
    yield Sandbox(executor, loop)
    loop.run_until_complete(executor.close())


@pytest.fixture
def sandbox(shared: Sandbox) -> Iterator[Sandbox]:
    """The shared executor, checked after the test for its health and for what was left behind.

    The runners must be those of before: a run that costs its runner is repeated, which would hide the loss.
    """
    before, runners = shared.belongings(), shared.runners()
    yield shared
    shared.assert_healthy()
    assert shared.belongings() == before
    assert shared.runners() == runners, "a program has cost the sandbox a runner"
