"""The frontend's silent step: pip, which installs a model's requirements before the model is loaded."""

from __future__ import annotations

from pathlib import Path

import psutil

from archive_tool.errors import ArchiveError
from archive_tool.metadata.manifest import Manifest
from archive_tool.metadata.names import MANIFEST_NAME

_MAX_MANIFEST = 1 << 20


def installing(frontend: int) -> str | None:
    """Return whose requirements are being installed; None if none are.

    The frontend logs that only when it is done, so its child processes are looked at.

    Args:
        frontend: its process id.
    """
    try:
        commands = [child.cmdline() for child in psutil.Process(frontend).children()]
    except psutil.Error:
        return None  # it, or pip, ended meanwhile
    for command in commands:
        if {"pip", "install", "-r"} <= set(command) and command[-1] != "-r":
            file = Path(command[command.index("-r") + 1])
            return f"installing the requirements of {_model(file.parent) or file.name}"
    return None


def _model(folder: Path) -> str | None:
    try:
        with (folder / MANIFEST_NAME).open("rb") as stream:
            return Manifest.from_json(stream.read(_MAX_MANIFEST)).model.model_name
    except (OSError, ArchiveError):
        return None
