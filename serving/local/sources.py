"""The files of a model as they lie in its author's folder: what they are, whether they have changed, and how an archive
would hold them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from archive_tool.building import checks
from archive_tool.building.builder import folders_from, with_service
from archive_tool.building.files import plan as make_plan
from archive_tool.building.inputs import Inputs, split_extra_files
from archive_tool.building.report import Report
from archive_tool.building.vendoring import vendor
from archive_tool.errors import InputError, TorchmarError
from archive_tool.metadata.manifest import Manifest, build_time
from archive_tool.metadata.names import MANIFEST_NAME, is_skipped_directory
from archive_tool.metadata.record import Record
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
)
# Larger files are linked: weights would take seconds to copy. The others are what they are when the model is loaded.
_COPIED = 1 << 20


class Sources:
    """The files of a model that is being written.

    Args:
        target: a handler's file, a project file, a folder with one, or a folder that is a model's (with a manifest).
        given: options of `archive_tool.build` that are said apart; they win over those of a project file.

    Raises:
        InputError: the target is none of these.
    """

    def __init__(self, target: Path, given: Mapping[str, Any] | None = None) -> None:
        self._target = target.absolute()
        self._given = dict(given or {})
        self._is_model = False
        self._project: Path | None = None
        if target.is_dir():
            if (target / project_file.NAME).is_file():
                self._project = self._target / project_file.NAME
            elif (target / MANIFEST_NAME).is_file():
                self._is_model = True
            else:
                raise InputError(
                    f"the folder {target} has no {project_file.NAME}, and it is no unpacked archive",
                    hint=f"torchmar init {target} writes one; or name the handler's file",
                )
        elif target.suffix in (".yaml", ".yml") and target.is_file():
            self._project = self._target
        elif target.suffix != ".py" or not target.is_file():
            what = "is no handler's file and no folder" if target.exists() else "does not exist"
            raise InputError(f"{target} {what}", hint=f"name a Python file, or a folder with a {project_file.NAME}")
        if self._is_model and self._given:
            raise InputError(f"{target} is an unpacked archive, whose manifest names its files")

    def model_name(self) -> str:
        """The model's name, by the files as they are now.

        Raises:
            TorchmarError: they do not tell.
        """
        return self._plan_of_model().model_name if self._is_model else str(self._options()["model_name"])

    def fingerprint(self) -> object:
        """Equal to an earlier one as long as no file has changed, come or gone."""
        try:
            found: list[object] = [_state(self._project)] if self._project else []
            for member in self._plan(Report()).members:
                source = member.source
                found.append((member.name, source if isinstance(source, bytes) else (str(source), _state(source))))
            return found
        except (TorchmarError, OSError, ValueError) as error:
            # Files that are named and are not there may come: then there is another error, or none.
            return [_state(self._project) if self._project else None, str(error)]

    def lay_out(self, folder: Path) -> tuple[Manifest, tuple[str, ...]]:
        """Puts the model's files into a new folder, as an archive would hold them.

        Returns:
            The manifest, and warnings.

        Raises:
            TorchmarError: these files make no model; all problems are told at once.
        """
        report = Report()
        try:
            plan = self._plan(report, checked=True)
            report.raise_errors()
            for member in plan.members:
                _place(member, folder / member.name)
            _place(Member(MANIFEST_NAME, plan.manifest.to_json()), folder / MANIFEST_NAME)
        except (OSError, ValueError) as error:
            raise InputError(f"a file of the model cannot be read: {error}") from error
        return plan.manifest, tuple(dict.fromkeys(str(problem) for problem in report.warnings))

    def _plan(self, report: Report, *, checked: bool = False) -> Plan:
        if self._is_model:
            return self._plan_of_model()
        options = self._options()
        inputs = Inputs(
            model_name=options["model_name"],
            handler=os.fspath(options["handler"]),
            version=options.get("version", "1.0"),
            folders_from=folders_from(options.get("keep_folders", False)),
            extra_files=split_extra_files(options.get("extra_files")),
            serialized_file=_path(options, "serialized_file"),
            model_file=_path(options, "model_file"),
            requirements_file=_path(options, "requirements_file"),
            config_file=_path(options, "config_file"),
        )
        record = Record()
        if options.get("model_path"):
            inputs, record = with_service(inputs, Path(options["model_path"]), record, report)
        plan = make_plan(inputs, build_time(), report)
        if checked:
            checks.check(inputs, plan, report)
            plan = vendor(inputs, plan, report)
        return replace(plan, manifest=plan.manifest.with_record(record)) if record.inputs else plan

    def _options(self) -> dict[str, Any]:
        if self._project is None:
            return {"model_name": self._target.stem, "handler": self._target} | self._given
        options = {name: value for name, value in project_file.read(self._project).items() if name in _FILES}
        options = {"model_name": self._project.parent.name} | options | self._given
        if "handler" not in options:
            raise InputError("the project file names no handler", where=str(self._project), hint="add handler: FILE.py")
        return options

    def _plan_of_model(self) -> Plan:
        with open_archive(self._target) as archive:
            manifest = archive.manifest
        if manifest is None:
            raise InputError(f"{self._target} has no manifest any more")
        members = [
            Member(path.relative_to(self._target).as_posix(), path)
            for path in _walk(self._target)
            if path != self._target / MANIFEST_NAME
        ]
        # The manifest is compared as it is read: it is what the worker gets.
        return Plan(manifest.model.model_name, tuple(members), manifest, 0)


def _path(options: Mapping[str, Any], name: str) -> Path | None:
    return Path(options[name]) if options.get(name) else None


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
