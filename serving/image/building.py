"""Building an image of a context, by whichever builder this machine has."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

from archive_tool.errors import InputError, TorchmarError

#: Programs that build an image, and what each must be told. HEALTHCHECK is of Docker's format alone.
BUILDERS: Final[dict[str, tuple[str, ...]]] = {
    "docker": ("build",),
    "podman": ("build", "--format", "docker"),
    "buildah": ("build", "--format", "docker"),
}


def command(context: Path, tag: str, builder: str | None = None) -> list[str]:
    """Return the command that builds an image.

    Args:
        context: folder with a Dockerfile.
        tag: of the image.
        builder: which program; None for the first that is installed.

    Raises:
        InputError: it is not installed, or none is.
    """
    place = f"./{context}" if str(context).startswith("-") else str(context)  # no option
    found = next((name for name in ([builder] if builder else BUILDERS) if shutil.which(name)), None)
    if found is None:
        raise InputError(
            f"{builder or 'none of ' + ', '.join(BUILDERS)} is installed",
            hint=f"build it elsewhere: docker build --tag {tag} {shlex.quote(place)}",
        )
    return [found, *BUILDERS[found], "--tag", tag, place]


def build(context: Path, tag: str, builder: str | None = None) -> None:
    """Build an image; what the builder says is shown.

    Raises:
        InputError: there is no builder.
        TorchmarError: it has failed.
    """
    argv = command(context, tag, builder)
    code = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        raise TorchmarError(f"{argv[0]} could not build the image (exit code {code})", where=str(context))
