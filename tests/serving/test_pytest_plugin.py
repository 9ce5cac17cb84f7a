"""The plugin for pytest costs nothing where it is not used; tests/integration has the fixture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_imports_nothing_before_it_is_used() -> None:
    program = (
        "import pytest, sys; before = set(sys.modules); import serving.pytest_plugin; "
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['serving', 'serving.pytest_plugin']\n"
