"""Prefork processes for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.worker.frontend import (
    WITHOUT_TORCH,
    Server,
    archive,
    wait_for,
)
from tests.serving.worker.starting.thin import Prefork, Thins


@pytest.fixture(scope="module")
def _prefork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefork]:
    # Without torch, whose import takes seconds.
    prefork = Prefork((archive(tmp_path_factory.mktemp("path") / "without torch", files=WITHOUT_TORCH),))
    yield prefork
    prefork.close()


@pytest.fixture
def prefork(_prefork: Prefork) -> Iterator[Prefork]:
    yield _prefork
    _prefork.end()
    assert wait_for(lambda: not _prefork.children()), "processes have been left behind"


@pytest.fixture
def complete(server: Server) -> Iterator[Thins]:
    """Yield one that has imported all that it will."""
    thins = Thins(server.pid)
    yield thins
    thins.close()
