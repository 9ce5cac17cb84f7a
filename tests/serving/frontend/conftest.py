"""Which of the two parsers of HTTP reads the requests."""

from __future__ import annotations

import importlib.util

import pytest


# The usual one every time, the other one in the slow tests.
@pytest.fixture(params=["httptools", pytest.param("h11", marks=pytest.mark.slow)])
def parser(request: pytest.FixtureRequest) -> str:
    if not importlib.util.find_spec(request.param):
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)
