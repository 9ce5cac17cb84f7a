"""A wheel holds everything that runs from an installation, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("archive_tool", "handlers", "model_defs", "serving")
# What names an environment in the Makefile, and what a make that runs the tests hands on.
VARIABLES = ("PYTHON", "TORCH", "TORCHVISION", "NUMPY", "PILLOW", "OLDEST", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")


def sources() -> list[str]:
    """Return the repository's own files: nothing that git ignores."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return what is in a wheel that was built from a copy of the sources, by name."""
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
    assert "[console_scripts]\ntorchmar = archive_tool.__main__:main\n" in entries
    assert "[pytest11]\ntorchmar = serving.pytest_plugin\n" in entries


def made(*arguments: str) -> str:
    """Return what make would run, for tests without their checks, if nothing were there yet."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = ["make", "-n", "-B", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_other_versions_have_an_environment_of_their_own() -> None:
    here = "python{}.{}".format(*sys.version_info)
    for arguments, folder, constraints in (
        ((), ".venv", ""),
        (("TORCH=2.14.1",), ".venv-torch2.14.1", "torch==2.14.1 torchvision==0.29.*"),
        (("NUMPY=1.26.4", "PILLOW=11.0.0"), ".venv-numpy1.26.4-pillow11.0.0", "numpy==1.26.4 pillow==11.0.0"),
        (
            (f"PYTHON={sys.executable}", "TORCH=2.6.0", "TORCHVISION=0.21.0"),
            f".venv-{here}-torch2.6.0-torchvision0.21.0",
            "torch==2.6.0 torchvision==0.21.0",
        ),
    ):
        lines = made("test-versions", *arguments).splitlines()
        assert f"-m venv {folder} " in " ".join(lines)
        assert {line.split("/bin/")[0] for line in lines if " -m pip " in line or " -m pytest " in line} == {folder}
        assert constraints_of(lines) == (f"{folder}/constraints.txt", constraints.split())


def constraints_of(lines: list[str]) -> tuple[str, list[str]]:
    """Return the file of the constraints for pip, and what make writes into it."""
    (line,) = (line for line in lines if "} > " in line)
    command, _, path = line.rpartition(" > ")
    shown = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return path, shown.split()


def test_the_oldest_are_those_that_the_package_allows(wheel: dict[str, bytes]) -> None:
    path, constraints = constraints_of(made("test-oldest").splitlines())
    assert path == ".venv-oldest/constraints.txt"
    assert dict(one.split("==") for one in constraints) == minimums(wheel)


def test_the_readme_names_the_oldest_versions(wheel: dict[str, bytes]) -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    oldest = minimums(wheel)
    assert f"torch {oldest['torch']} to " in readme
    assert f"torchvision of the same release ({oldest['torchvision']} to " in readme
    assert f"numpy {oldest['numpy']} to " in readme
    assert f"pillow {oldest['pillow']} to " in readme


def minimums(wheel: dict[str, bytes]) -> dict[str, str]:
    """Return the oldest version of each package that the wheel needs, where it is a range."""
    (metadata,) = (text.decode() for name, text in wheel.items() if name.endswith(".dist-info/METADATA"))
    needed = re.findall(r"^Requires-Dist: ([^\s<>=;]+)(?:<[0-9.]+,)?>=([0-9.]+)(?!.*extra ==)", metadata, re.MULTILINE)
    return dict(needed)
