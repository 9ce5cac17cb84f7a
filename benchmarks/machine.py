"""The machine of a run; part of every report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def describe() -> str:
    """Return cores, processor and system."""
    return f"{os.cpu_count()} cores, {_processor()}, {platform.system()}"


def versions(*packages: str) -> str:
    """Return the versions of Python and of these packages."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])


def compile_packages() -> None:
    """Compile our modules, as pip does with what it installs: the peer's are, too, whatever the environment says."""
    import compileall

    for name in ("archive_tool", "handlers", "serving", "model_defs"):
        compileall.compile_dir(Path(__file__).resolve().parents[1] / name, quiet=2)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
