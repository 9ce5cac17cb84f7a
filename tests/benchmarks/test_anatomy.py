"""The script that takes a request apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import anatomy

SCRIPT = Path(anatomy.__file__)


def test_the_layers_add_up_to_the_whole() -> None:
    depths = anatomy.Depths(handler=[3e-6], echo=[5e-6, 6e-6, 7e-6], worker=[20e-6], ping=[50e-6], whole=[100e-6])
    *layers, (_, whole) = depths.layers().items()
    assert [round(value) for _, value in layers] == [50, 30, 6, 11, 3]
    assert whole == pytest.approx(sum(value for _, value in layers)) == pytest.approx(100)


def test_an_echo_takes_a_little() -> None:
    assert 0 < anatomy.echo(300, 20, 0.05) < 1


@pytest.mark.slow
def test_the_script_runs_both_workers_and_writes_a_table(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--workloads", "noop", "--rounds", "1", "--seconds", "0.2"]
    done = subprocess.run([*command, "--output-dir", tmp_path], capture_output=True, text=True, timeout=200, check=True)
    assert "| the whole request |" in done.stdout
    (found,) = json.loads((tmp_path / "anatomy.json").read_text()).values()
    assert set(found) == {"stock", "dedicated"}
    assert all(layers["the whole request"] > 0 for layers in found.values())


def test_an_unknown_workload_is_named() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--workloads", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such workload: x" in done.stderr
