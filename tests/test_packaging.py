"""A wheel holds everything that runs from an installation, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("archive_tool", "handlers", "model_defs", "serving")


def sources() -> list[str]:
    """The repository's own files: nothing that git ignores."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is in a wheel that was built from a copy of the sources, by name."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in sources():
        if name.startswith(PACKAGES) or "/" not in name:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    # The setuptools of this environment: a test needs no network.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, "."]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(folder.glob("torchmar-*.whl"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_source_file_is_in_the_wheel(wheel: dict[str, bytes]) -> None:
    ours = {name for name in sources() if name.split("/")[0] in PACKAGES}
    assert ours == {name for name in wheel if ".dist-info/" not in name}


def test_the_home_of_the_worker_is_complete(wheel: dict[str, bytes]) -> None:
    """What the frontend looks for in its model_server_home."""
    home = "serving/worker/home/ts"
    for name in (
        "model_service_worker.py",
        "version.txt",
        "configs/metrics.yaml",
        "metrics/metric_collector.py",
        "utils/setup_model_venv.py",
    ):
        assert f"{home}/{name}" in wheel


def test_the_commands_and_the_plugin_for_pytest(wheel: dict[str, bytes]) -> None:
    (entries,) = (text.decode() for name, text in wheel.items() if name.endswith(".dist-info/entry_points.txt"))
    assert "[console_scripts]\ntorchmar = archive_tool.cli:main\n" in entries
    assert "[pytest11]\ntorchmar = serving.pytest_plugin\n" in entries
