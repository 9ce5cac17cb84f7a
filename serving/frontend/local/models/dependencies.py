"""What a model wants installed for itself: its own environment, its requirements (ModelManager.java).

Installing takes minutes: it runs in a thread, not in the event loop.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from serving import parent
from serving.frontend.errors import ModelError
from serving.frontend.local.models.model import Model
from serving.frontend.local.process import environment
from serving.frontend.settings import Settings

_SHOWN: Final = 4000


def python_of(model: Model) -> str:
    """Return the interpreter of a model's workers: its environment's, ``python3`` of PATH, or the server's own."""
    venv = _venv(model)
    if venv is not None and (venv / "bin" / "python").exists():
        return str(venv / "bin" / "python")
    return "python3" if model.runtime == "python3" else sys.executable


def install(model: Model, settings: Settings) -> None:
    """Make the environment that the model wants, and install its requirements if the server allows that.

    Raises:
        ModelError: it could not be done; says what pip said.
    """
    venv = _venv(model)
    if venv is not None:
        script = settings.place.home / "ts" / "utils" / "setup_model_venv.py"
        _run([sys.executable, str(script), str(venv)], model, settings, "Virtual environment creation failed")
    requirements = model.unpacked.manifest.model.requirements_file if model.unpacked.manifest else None
    if not requirements or not settings.install_py_dep_per_model:
        return
    folder = model.unpacked.folder
    where = ["--upgrade-strategy", "only-if-needed"]
    if venv is None:
        where = ["-t", str(folder.parent if folder.is_symlink() else folder)]
    command = [python_of(model), "-m", "pip", "install", "-U", *where, "-r", str(folder / requirements)]
    _run(command, model, settings, "Custom pip package installation failed")


def _venv(model: Model) -> Path | None:
    owned = model.unpacked.owned
    return owned / "venv" if owned is not None and model.values.get("useVenv") else None


def _run(command: list[str], model: Model, settings: Settings, what: str) -> None:
    # Pip's own temporary folders hold all that it installs. When it is killed they are removed as the server's own is.
    temporary = tempfile.TemporaryDirectory(dir=settings.place.runtime, ignore_cleanup_errors=True)
    with temporary as folder, tempfile.TemporaryFile() as output:
        # What nobody waits for any more would go on for minutes; pip leaves most of the work to processes of its own.
        done = parent.run(
            command,
            cwd=model.unpacked.folder,
            env=environment(model, settings) | {"TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        if done.returncode == 0:
            return
        size = output.seek(0, 2)
        output.seek(max(0, size - _SHOWN))
        said = output.read().decode("utf-8", "replace").strip()
    raise ModelError(f"{what} for {model.name}: {said}")
