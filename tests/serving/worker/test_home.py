"""The folder that the frontend is pointed at in the place of the installed TorchServe."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from serving import worker

HOME = Path(worker.__file__).parent / "home"


@pytest.fixture(scope="module")
def stock() -> Path:
    spec = find_spec("ts")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def test_it_holds_what_the_frontend_looks_for() -> None:
    for name in (
        "version.txt",
        "configs/metrics.yaml",
        "metrics/metric_collector.py",
        "utils/setup_model_venv.py",
    ):
        assert (HOME / "ts" / name).is_file()


def test_the_version_is_that_of_the_frontend(stock: Path) -> None:
    assert (HOME / "ts" / "version.txt").read_text().strip() == (stock / "version.txt").read_text().strip() == "0.12.0"


def test_the_metrics_are_those_of_torchserve(stock: Path) -> None:
    """Names, units, dimensions, and the order of all of them."""

    def read(folder: Path) -> object:
        return yaml.safe_load((folder / "configs" / "metrics.yaml").read_text())

    ours, theirs = read(HOME / "ts"), read(stock)
    assert ours == theirs
    assert yaml.safe_dump(ours, sort_keys=False) == yaml.safe_dump(theirs, sort_keys=False)


def test_it_does_not_hide_the_installed_package(stock: Path) -> None:
    """The frontend puts the home on PYTHONPATH; a folder without ``__init__.py`` gives way to the real package."""
    assert list(HOME.rglob("__init__.py")) == []
    code = "from importlib.util import find_spec; print(find_spec('ts').origin)"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(HOME)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == stock / "__init__.py"
