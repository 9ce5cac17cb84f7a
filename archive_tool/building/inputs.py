"""The inputs of a build, parsed but not yet checked."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from archive_tool.metadata.names import LSP_HANDLERS
from handlers.builtin import BUILT_IN, SDK_HANDLERS, STOCK_HANDLERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archive_tool.files import StrPath


@dataclass(frozen=True)
class Inputs:
    """The inputs of one archive, as torch-model-archiver's options of the same names.

    Extra files lose their folders, unless `folders_from` names a folder: then they keep the folders below it.
    """

    model_name: str
    handler: str
    version: str | None = None
    serialized_file: Path | None = None
    model_file: Path | None = None
    extra_files: tuple[str, ...] = ()
    folders_from: Path | None = None
    runtime: str = "python"
    requirements_file: Path | None = None
    config_file: Path | None = None

    @property
    def uses_python(self) -> bool:
        """Whether a Python worker serves the archive (else the C++ one: runtime LSP)."""
        return self.runtime != "LSP"

    @property
    def built_in_handler(self) -> bool:
        """Whether the handler is one that the server or the SDK provides, so that no file is copied for it."""
        if not self.uses_python:
            return self.handler in LSP_HANDLERS
        # torch-model-archiver copies ./densenet_handler.py for the name densenet_handler; so do we if it exists.
        return self.handler in STOCK_HANDLERS or (self.handler in BUILT_IN and not Path(f"{self.handler}.py").exists())

    @property
    def sdk_handler(self) -> str | None:
        """The SDK's class of a built-in handler; None for any other handler."""
        return SDK_HANDLERS.get(self.handler) if self.uses_python and self.built_in_handler else None

    @property
    def handler_file(self) -> Path | None:
        """The file that the handler's reference names; None for a built-in name.

        For Python: ``dir/h``, ``dir/h.py``, ``dir/h:function``, ``dir/h.py:function``. For the runtime LSP, a library's
        suffix is appended. The file need not exist.
        """
        if self.built_in_handler:
            return None
        if not self.uses_python:
            suffix = ".dylib" if platform.system() == "Darwin" else ".so"
            return Path(self.handler.split(":")[0] + suffix)
        if ".py" in self.handler and Path(self.handler).is_file():
            return Path(self.handler)
        folder, base = os.path.split(self.handler)
        module = base.split(":", 1)[0]
        return Path(folder, module if module.endswith(".py") else f"{module}.py")

    @property
    def handler_function(self) -> str | None:
        """The function after the colon, or None if the reference names none."""
        _, colon, function = Path(self.handler).name.partition(":")
        return function if colon else None


def split_extra_files(value: StrPath | Sequence[StrPath] | None) -> tuple[str, ...]:
    """Parse ``--extra-files``: a text is split at commas and stripped; a path object is taken as it is.

    A text that names an existing file is that file, with or without commas.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        if os.path.lexists(value.strip()):
            return (value.strip(),)
        return tuple(item.strip() for item in value.split(",") if item.strip())
    if isinstance(value, os.PathLike):
        return (os.fspath(value),)
    return tuple(item for entry in value for item in split_extra_files(entry))
