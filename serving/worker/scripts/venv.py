"""The virtual environment of a model with ``useVenv``, in which the frontend then installs its requirements.

The environment sees, after its own packages, all that the interpreter running this sees (torch above all), so that pip
installs only what differs. Python's own ``system_site_packages`` does not do that: if this interpreter belongs to a
virtual environment itself, it would show the packages of the installation below that one.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import SimpleNamespace

#: Last by name, so that what the model's own packages add to the path comes before.
PTH_NAME: Final = "zz_torchmar_inherited.pth"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the environment that the only argument names."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: setup_model_venv.py FOLDER", file=sys.stderr)
        return 2
    try:
        create(Path(arguments[0]))
    except Exception as error:
        print(f"cannot make the virtual environment {arguments[0]}: {_reason(error)}", file=sys.stderr)
        return 1
    return 0


def create(folder: Path) -> None:
    """Make a virtual environment with pip, in the place of whatever the folder held; on failure the folder is gone."""
    try:
        _Builder(clear=True, with_pip=True, symlinks=os.name != "nt").create(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class _Builder(venv.EnvBuilder):
    def post_setup(self, context: SimpleNamespace) -> None:
        # Asked of the new interpreter: distributions differ in where they put packages.
        code = "import os, sys, sysconfig; sys.stdout.buffer.write(os.fsencode(sysconfig.get_path('purelib')))"
        done = subprocess.run([context.env_exe, "-I", "-c", code], check=True, capture_output=True)
        Path(os.fsdecode(done.stdout), PTH_NAME).write_text(inherited(), encoding="ascii")


def inherited() -> str:
    """Return the text of the .pth file that shows another interpreter the packages of this one.

    ``addsitedir`` obeys the .pth files in a folder, which a plain line would not: editable installs and import hooks
    need that. PYTHONPATH is not inherited: the frontend sets it for each process.
    """
    folders = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    folders += site.getsitepackages()
    # Escaped, for how Python decodes a .pth file depends on its version and the locale.
    return "".join(f"import site; site.addsitedir({folder!a})\n" for folder in folders if Path(folder).is_dir())


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        # The text of pip's installation comes with the error, and its last line is the cause.
        text = os.fsdecode(error.stderr or error.output or b"").strip()
        if "No module named ensurepip" in text:
            return "this Python has no ensurepip; on Debian and Ubuntu: apt install python3-venv"
        return text.splitlines()[-1] if text else f"{error.cmd[0]} ended with {error.returncode}"
    return " ".join(str(error).split()) or type(error).__name__
