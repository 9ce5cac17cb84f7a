"""The whole of ``make demo``: train, archive, start, predict, scale, stop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from filelock import FileLock

from .conftest import ROOT, Sandbox


@pytest.mark.slow  # all its commands have tests of their own
@pytest.mark.timeout(400)
def test_the_demo_passes_and_leaves_nothing_running(sandbox: Sandbox, mnist_place: Path) -> None:
    demo = ("python", ROOT / "examples" / "mnist" / "demo.py", "--port", "auto", "--model-store", sandbox.store)
    with FileLock(f"{mnist_place}.lock"):
        # Others need weights, too: the first training serves them all.
        work = sandbox.root / "build" if mnist_place.exists() else mnist_place
        done = sandbox.run(*demo, "--work", work, timeout=380).ok()
    accuracy = re.search(r"held-out accuracy ([0-9.]+)%", done.out)
    assert accuracy
    assert float(accuracy[1]) >= 97.0
    assert len(re.findall(r"expected +\d", done.out)) >= 20
    assert done.out.count("ms") >= 20
    assert "mnist 1.0: 2 of 2 workers ready" in done.out
    assert "demo passed: nothing is left running" in done.out
    assert sandbox.leftovers() == []


def test_a_step_that_fails_makes_the_demo_fail(sandbox: Sandbox) -> None:
    """Here the training: its folder cannot be made."""
    blocked = sandbox.file("blocked", "a file where a folder should be")
    done = sandbox.run("python", ROOT / "examples" / "mnist" / "demo.py", "--port", "auto", "--work", blocked / "x")
    assert done.code == 1
    assert "demo failed:" in done.out
