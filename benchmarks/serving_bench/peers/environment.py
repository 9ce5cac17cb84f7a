"""A virtual environment of peers, made once and kept in the user's cache.

It is apart from ours, which must not change for them. It shows them all that ours holds, torch above all, so that only
some megabytes are downloaded. Remove the folder to get newer ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.serving_bench.servers import BenchmarkError
from serving.control.configuration.java import worker_home

REQUIREMENTS = ("mosec>=0.9", "fastapi>=0.110", "uvicorn>=0.30", "uvloop", "httptools")
_INSTALL_TIMEOUT_S = 600.0
_PIP = ("--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15")


def folder(requirements: Sequence[str] | None = None) -> Path:
    """Return where it is, or will be: other packages, another Python or environment of ours have another.

    Args:
        requirements: packages; None for those of the benchmarks.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(repr((tuple(requirements or REQUIREMENTS), sys.version, sys.prefix)).encode()).hexdigest()[:12]
    return base / "torchmar" / "benchmarks" / f"peers-{key}"


def python(requirements: Sequence[str] | None = None) -> Path:
    """Return its interpreter; it is made where there is none.

    Args:
        requirements: as `folder` takes them.

    Raises:
        BenchmarkError: it could not be made; says why.
    """
    place = folder(requirements)
    if not place.is_dir():
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(place, requirements or REQUIREMENTS)
        except OSError as error:
            raise BenchmarkError(f"{place}: {error}") from error
    return place / "bin" / "python"


def versions(*names: str) -> str:
    """Return the versions of packages as its interpreter finds them; those of ours come last."""
    paths = [*map(str, folder().glob("lib/python*/site-packages")), *sys.path]
    found: dict[str, str] = {}
    for one in distributions(path=paths):
        found.setdefault(one.metadata["Name"].lower(), one.version)
    return ", ".join(f"{name} {found[name]}" for name in names if name in found)


def _make(place: Path, requirements: Sequence[str]) -> None:
    """Make it beside its place and move it there when it is complete: none that is half made is ever found."""
    with tempfile.TemporaryDirectory(prefix="making-", dir=place.parent) as temporary:
        made = Path(temporary) / "environment"
        # As the server does for a model with useVenv: pip then finds our packages there already.
        _run("no virtual environment", sys.executable, worker_home() / "ts" / "utils" / "setup_model_venv.py", made)
        pip = (made / "bin" / "python", "-m", "pip", "install", *_PIP)
        _run(f"pip could not install {', '.join(requirements)}", *pip, *requirements)
        try:
            made.rename(place)
        except OSError:
            if not place.is_dir():  # else another run was faster
                raise
            shutil.rmtree(made)


def _run(failure: str, *command: str | Path) -> None:
    # What is said of Python's paths is meant for another interpreter.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, env=environ, timeout=_INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{failure} within {_INSTALL_TIMEOUT_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise BenchmarkError(f"{failure}: {said[-1] if said else f'exit code {error.returncode}'}") from error
