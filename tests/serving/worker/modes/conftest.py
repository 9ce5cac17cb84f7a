"""What the tests of two batches at once share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.serving.worker.frontend import wait_for


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    """Check that the second thread ends with its process."""
    yield
    assert wait_for(lambda: "torchmar-preparer" not in {thread.name for thread in threading.enumerate()})


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the second thread at work whenever it can be."""
    monkeypatch.setattr("serving.worker.modes.pipeline._Costs.pay", lambda _: True)
