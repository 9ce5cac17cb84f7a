"""What tests of several rooms share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]


# Tests whose parts are real processes: frontends, workers, clients. A busy machine can starve any of them.
_OF_PROCESSES = tuple(
    ROOT / "tests" / name
    for name in ("integration", "serving/worker", "serving/check", "archive_tool/publishing", "test_docs.py")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives them a second try, which the summary counts; what fails twice has failed."""
    for item in items:
        if any(place == item.path or place in item.path.parents for place in _OF_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def mnist_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `examples/mnist/train.py` writes, after one epoch; trained once, whichever process asks first."""
    base = tmp_path_factory.getbasetemp()
    # The processes of one parallel run have folders of their own in a common one; alone, that one outlives the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mnist-weights"
    with FileLock(f"{folder}.lock"):
        if not (folder / "mnist_script.pt").exists():
            # One epoch may be less than the example asks of itself; the files are written all the same.
            command = [sys.executable, ROOT / "examples" / "mnist" / "train.py", "--epochs", "1"]
            subprocess.run([*command, "--output-dir", folder], capture_output=True, check=False)
    assert (folder / "mnist_script.pt").exists()
    return folder
