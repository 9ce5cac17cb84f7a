"""Archives of small handlers, without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.check import Input
from serving.local.run import Answered, RunOptions, Timing
from serving.local.run import run as run_archive
from tests.serving.check.conftest import make

__all__ = ["make"]

Ran = tuple[list[Answered], list[Timing]]


def given(*bodies: bytes, content_type: str = "application/json") -> tuple[Input, ...]:
    """Return inputs of these bodies."""
    return tuple(Input(f"in{index}", body, content_type) for index, body in enumerate(bodies))


@pytest.fixture
def run(make: Callable[..., Path]) -> Callable[..., Ran]:
    """Build an archive and run it."""

    def ran(source: str, *inputs: Input, options: dict[str, Any] | None = None, **more: Any) -> Ran:
        answers: list[Answered] = []
        timings = run_archive(RunOptions(make(source, **more), inputs, **(options or {})), answers.append)
        return answers, timings

    return ran
