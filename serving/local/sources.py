"""The files of a model in its author's folder: which they are, whether they changed, their layout in an archive."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from archive_tool.building import builder
from archive_tool.building.options import BuildOptions
from archive_tool.building.report import Report
from archive_tool.errors import InputError, TorchmarError
from archive_tool.metadata.manifest import Manifest
from archive_tool.metadata.names import MANIFEST_NAME, is_skipped_directory, name_of_folder
from archive_tool.pretrained import folder as pretrained
from archive_tool.projects import project_file
from archive_tool.reading.archive import open_archive
from archive_tool.writing.plan import Member, Plan

#: Settings of a project file that say which files a model has, and what they are; the others are about its archive.
_FILES = (
    "model_name",
    "version",
    "handler",
    "model_path",
    "serialized_file",
    "model_file",
    "extra_files",
    "keep_folders",
    "requirements_file",
    "config_file",
    "pretrained",
    "task",
    "trust_remote_code",
)
# Larger files are linked: weights would take seconds to copy. The others are what they are when the model is loaded.
_COPIED = 1 << 20


class Sources:
    """The files of a model that is being written.

    Args:
        target: a handler's file, a project file, a folder with one, one that ``save_pretrained`` wrote, or one that is
            a model's (with a manifest).
        given: options of `archive_tool.build` that are given apart; they win over those of a project file.

    Attributes:
        target: the same, absolute.

    Raises:
        InputError: the target is none of these.
    """

    def __init__(self, target: Path, given: Mapping[str, Any] | None = None) -> None:
        self.target = target.absolute()
        self._given = dict(given or {})
        self._is_model = False
        self._project: Path | None = None
        self._saved: dict[str, Any] = {}
        if target.is_dir():
            if (target / project_file.NAME).is_file():
                self._project = self.target / project_file.NAME
            elif (target / MANIFEST_NAME).is_file():
                self._is_model = True
            elif pretrained.is_one(target):
                self._saved = {"model_name": name_of_folder(target), "pretrained": self.target}
            else:
                raise InputError(
                    f"the folder {target} has no {project_file.NAME}, and it is no unpacked archive",
                    hint=f"torchmar init {target} writes one; or name the handler's file",
                )
        elif target.suffix in (".yaml", ".yml") and target.is_file():
            self._project = self.target
        elif target.suffix != ".py" or not target.is_file():
            what = "is no handler's file and no folder" if target.exists() else "does not exist"
            raise InputError(f"{target} {what}", hint=f"name a Python file, or a folder with a {project_file.NAME}")
        if self._is_model and self._given:
            raise InputError(f"{target} is an unpacked archive, whose manifest names its files")

    def model_name(self) -> str:
        """Return the model's name, by the files as they are now.

        Raises:
            TorchmarError: the files do not say.
        """
        return self._plan_of_model().model_name if self._is_model else self._options().model_name

    def fingerprint(self) -> object:
        """Return a value that stays equal as long as no file has changed, come or gone."""
        try:
            found: list[object] = [_state(self._project)] if self._project else []
            plan = self._plan_of_model() if self._is_model else builder.find(self._options(), Report())[0].plan
            for member in plan.members:
                source = member.source
                found.append((member.name, source if isinstance(source, bytes) else (str(source), _state(source))))
            return found
        except (TorchmarError, OSError, ValueError) as error:
            # Files that are named but missing may come: then there is another error, or none.
            return [_state(self._project) if self._project else None, str(error)]

    def lay_out(self, folder: Path) -> tuple[Manifest, tuple[str, ...]]:
        """Put the model's files into a new folder, as an archive would hold them.

        Returns:
            The manifest, and warnings.

        Raises:
            TorchmarError: these files make no model; all problems are reported at once.
        """
        report = Report()
        try:
            plan = self._plan_of_model() if self._is_model else builder.compose(self._options(), report)
            report.raise_errors()
            for member in plan.members:
                _place(member, folder / member.name)
            _place(Member(MANIFEST_NAME, plan.manifest.to_json()), folder / MANIFEST_NAME)
        except (OSError, ValueError) as error:
            raise InputError(f"a file of the model cannot be read: {error}") from error
        return plan.manifest, report.told()

    def _options(self) -> BuildOptions:
        if self._saved:
            return BuildOptions(**self._saved | self._given)
        if self._project is None:
            return BuildOptions(**{"model_name": self.target.stem, "handler": self.target, **self._given})
        options = {name: value for name, value in project_file.read(self._project).items() if name in _FILES}
        options = {"model_name": self._project.parent.name} | options | self._given
        if "handler" not in options and "pretrained" not in options:
            raise InputError("the project file names no handler", where=str(self._project), hint="add handler: FILE.py")
        return BuildOptions(**options)

    def _plan_of_model(self) -> Plan:
        with open_archive(self.target) as archive:
            manifest = archive.manifest
        if manifest is None:
            raise InputError(f"{self.target} has no manifest any more")
        members = [
            Member(path.relative_to(self.target).as_posix(), path)
            for path in _walk(self.target)
            if path != self.target / MANIFEST_NAME
        ]
        # The manifest is compared as it is read: it is what the worker gets.
        return Plan.of(members, manifest, 0)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            yield entry
        elif not is_skipped_directory(entry.name):
            yield from _walk(entry)


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _place(member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = member.source
    if isinstance(source, bytes):
        target.write_bytes(source)
    elif source.suffix != ".py" and source.stat().st_size > _COPIED:
        target.symlink_to(source.absolute())
    else:
        shutil.copyfile(source, target)
