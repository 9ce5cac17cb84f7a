from __future__ import annotations

from collections.abc import Iterator

import pytest

from .answering import Server, answering


@pytest.fixture
def server() -> Iterator[Server]:
    with answering() as running:
        yield running
