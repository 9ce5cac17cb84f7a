"""Scenario B: a service of MXNet Model Server, from its folder and from its archive, over HTTP."""

from __future__ import annotations

import pytest

from .conftest import ROOT, Sandbox


@pytest.mark.timeout(400)
def test_the_demo_passes_and_leaves_nothing_running(sandbox: Sandbox) -> None:
    pytest.importorskip("onnxruntime")
    folders = ("--work", sandbox.root / "build", "--model-store", sandbox.store)
    done = sandbox.run("python", ROOT / "examples" / "fizbuz" / "demo.py", "--port", "auto", *folders, timeout=380).ok()
    assert done.out.count("14 -> fizzbuzz") == 2
    assert "1 worker, " in done.out
    assert "demo passed: nothing is left running" in done.out
    assert sandbox.leftovers() == []
