"""The script that measures Pillow beside torchvision."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pictures.py"


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the script, which takes torchvision and adds to sys.path."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return import_module("benchmarks.pictures")


@pytest.mark.slow  # runs a benchmark
def test_the_script_compares_every_way_and_prints_tables() -> None:
    command = [sys.executable, SCRIPT, "--rounds", "1", "--largest", "500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    sizes = [row for row in rows if row[0] in ("224 x 224", "500 x 375", "375 x 500")]
    assert [len(row) for row in sizes] == [9] * 3 + [7] * 3
    assert all(float(cell) > 0 for row in sizes[:3] for cell in row[1:7])
    assert [row[-1] for row in sizes[3:]] == ["yes"] * 3  # torchvision decodes to the same pixels
    assert {row[0] for row in rows} >= {"Pillow decodes", "torchvision scales"}


def test_the_share_of_values_that_differ(pictures: ModuleType) -> None:
    one = torch.tensor([0, 255, 7, 7], dtype=torch.uint8)
    assert pictures.difference(one, one) == (0.0, 0)
    assert pictures.difference(one, torch.tensor([255, 255, 7, 6], dtype=torch.uint8)) == (0.5, 255)


def test_who_holds_the_lock(pictures: ModuleType) -> None:
    assert pictures.lets_others_run(lambda: time.sleep(0.2))
    assert not pictures.lets_others_run(lambda: sum(range(100_000)))


@pytest.mark.slow  # runs a benchmark
def test_a_limit_that_leaves_no_picture_is_refused() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--largest", "10"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--largest must be at least 224" in done.stderr
