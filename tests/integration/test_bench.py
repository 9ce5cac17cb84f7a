"""`torchmar bench` on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import PYTHON_FIRST, Server

# It takes its time: one that takes none keeps both processors busy with nothing but the load.
HANDLER = """
import time


class Handler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        time.sleep(0.01)
        return ["7" for _ in data]
"""


@pytest.mark.parametrize("frontend", PYTHON_FIRST)
def test_a_model_is_loaded_while_its_workers_are_scaled(light_server: Server, frontend: str, tmp_path: Path) -> None:
    # Java's frontend cuts what a worker runs that it ends, and may fail itself: "Job.isControlCmd()" of no job.
    scaled = {2: "1 to 2 workers", 1: "2 to 1 workers"}
    if frontend == "java":
        scaled = {1: "1 workers, scaled to as many", 2: "1 to 2 workers"}
    box = light_server.sandbox
    box.build("benched", HANDLER)
    box.torchmar("register", "benched.mar").ok()
    sample = tmp_path / "one.txt"
    sample.write_text("1")
    page = tmp_path / "report.html"
    numbers = ",".join(map(str, scaled))
    options = (
        "--duration",
        "0.7",
        "--warm-up",
        "0",
        "--connections",
        "2",
        "--scale",
        numbers,
        "--html",
        page,
        "--json",
    )
    found: dict[str, Any] = box.torchmar("bench", "benched", "--input", sample, *options).json()
    assert [(run["workers"], run["load"]) for run in found["runs"]] == [
        (workers, load) for workers, name in scaled.items() for load in (name, "2 connections")
    ]
    for run in found["runs"]:
        assert run["errors"] == {}
        assert run["good"] > 0
    assert "</html>" in page.read_text()
