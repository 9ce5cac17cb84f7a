"""The options of a build, shared by the command line, the project file, `build` and `publish`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from archive_tool.building.inputs import Inputs, split_extra_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archive_tool.building.samples import GivenSample
    from archive_tool.files import StrPath
    from archive_tool.metadata.record import Record


# The key of an option in a project file; see `archive_tool.projects.project_file`. An option without one is not for it.
_TEXT: Final = {"kind": "text"}
_FLAG: Final = {"kind": "flag"}
_PATH: Final = {"kind": "path"}


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The options of a build; `archive_tool.build`, which takes them one by one, documents each."""

    model_name: str = field(metadata=_TEXT)
    version: str = field(default="1.0", metadata=_TEXT)
    handler: StrPath = field(default="", metadata={"kind": "handler"})
    pretrained: StrPath | None = field(default=None, metadata=_PATH)
    task: str | None = field(default=None, metadata=_TEXT)
    adapter: StrPath | None = field(default=None, metadata=_PATH)
    trust_remote_code: bool = field(default=False, metadata=_FLAG)
    model_path: StrPath | None = field(default=None, metadata=_PATH)
    serialized_file: StrPath | None = field(default=None, metadata=_PATH)
    model_file: StrPath | None = field(default=None, metadata=_PATH)
    extra_files: StrPath | Sequence[StrPath] | None = field(default=None, metadata={"kind": "files"})
    keep_folders: StrPath | bool = field(default=False, metadata=_FLAG)
    runtime: str = field(default="python", metadata={"kind": "runtime"})
    export_path: StrPath | None = field(default=None, metadata=_PATH)
    archive_format: str = field(default="default", metadata={"kind": "format"})
    force: bool = field(default=False, metadata=_FLAG)
    requirements_file: StrPath | None = field(default=None, metadata=_PATH)
    config_file: StrPath | None = field(default=None, metadata=_PATH)
    vendor_sdk: bool = field(default=True, metadata=_FLAG)
    compress: bool = field(default=False, metadata=_FLAG)
    description: str | None = field(default=None, metadata=_TEXT)
    licence: str | None = field(default=None, metadata=_TEXT)
    sample: Sequence[str | GivenSample] = field(default=(), metadata={"kind": "samples"})
    aot: bool = field(default=False, metadata=_FLAG)
    archive_name: str | None = None
    record: Record | None = None

    def inputs(self) -> Inputs:
        """Return the options that name the archive's files."""
        keep = self.keep_folders
        return Inputs(
            model_name=self.model_name,
            handler=os.fspath(self.handler),
            version=self.version,
            serialized_file=_path(self.serialized_file),
            model_file=_path(self.model_file),
            extra_files=split_extra_files(self.extra_files),
            folders_from=(Path() if keep else None) if isinstance(keep, bool) else Path(keep),
            runtime=self.runtime,
            requirements_file=_path(self.requirements_file),
            config_file=_path(self.config_file),
        )


def _path(value: StrPath | None) -> Path | None:
    # An empty text means "not given", as for torch-model-archiver.
    return Path(value) if value is not None and os.fspath(value) else None
