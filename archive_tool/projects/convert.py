"""Converting an older archive for TorchServe: one of MXNet Model Server, or one with an older handler SDK."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from archive_tool.building import builder
from archive_tool.building.options import BuildOptions
from archive_tool.errors import BuildError, UnreadableArchiveError
from archive_tool.metadata.manifest import Manifest
from archive_tool.metadata.names import MANIFEST_DIRECTORY, MANIFEST_NAME, SUFFIXES
from archive_tool.metadata.record import KEY, Record
from archive_tool.projects import renewal
from archive_tool.reading.archive import open_archive
from archive_tool.verification.extraction import extract

if TYPE_CHECKING:
    from archive_tool.files import StrPath

#: Keys of its manifests that TorchServe's do not have; they are kept in the record, under this one.
KEPT: Final = "convertedFrom"
_OLD_KEYS: Final = (
    "specificationVersion",
    "implementationVersion",
    "modelServerVersion",
    "engine",
    "publisher",
    "userData",
)


def convert(archive: StrPath, output: StrPath | None = None, *, force: bool = False) -> builder.BuildResult:
    """Write an archive of MXNet Model Server anew for TorchServe, or one for TorchServe with the installed SDK.

    In the first case all files are kept. The manifest becomes TorchServe's; keys that this does not have stay in the
    record. In the second case everything is kept except the copy of the handler SDK, and the hashes are recorded anew.

    Args:
        archive: the old one.
        output: the new one, with the suffix ``.mar`` or ``.tar.gz``; None for ``NAME-converted.mar`` beside the old
            one.
        force: replace an existing file.

    Raises:
        ArchiveError: the old archive cannot be read, or is not safe to unpack.
        BuildError: it cannot become a working archive.
        TargetExistsError: the new one exists, and force is not set.
    """
    old = Path(archive)
    new = Path(output) if output is not None else old.with_name(f"{old.stem}-converted.mar")
    name, archive_format = _split_output(new)
    with tempfile.TemporaryDirectory(prefix="torchmar-convert-") as scratch:
        folder = Path(scratch, "service")
        with open_archive(old) as opened:
            if (found := opened.manifest) is not None and (KEY in found.extra or found.archiver_version is not None):
                return renewal.renew(opened, found, new, archive_format, force=force)
            extract(opened, folder, complete=False)
        manifest, document = _take_manifest(folder, old)
        model = manifest.model
        if model.handler is None:
            raise BuildError(f"the manifest of {old} names no handler", where=MANIFEST_NAME)
        options = BuildOptions(
            model_name=model.model_name,
            version=model.version,
            handler=model.handler,
            model_path=folder,
            export_path=new.parent,
            archive_name=name,
            archive_format=archive_format,
            force=force,
            description=_text(document.get("description")),
            licence=_text(document.get("license")),
            record=Record(extra=_kept(document)),
        )
        built = builder.build_archive(options)
    warnings = [text.replace(f"{folder}/", "") for text in built.warnings]
    if manifest.runtime not in ("python", "python3"):
        warnings.append(f"the runtime was {manifest.runtime!r}; it is Python 3 now, and the code may not be")
    return replace(built, warnings=tuple(warnings))


def _split_output(path: Path) -> tuple[str, str]:
    for archive_format in ("default", "tgz"):
        suffix = SUFFIXES[archive_format]
        if path.name.endswith(suffix) and path.name != suffix:
            return path.name.removesuffix(suffix), archive_format
    raise BuildError(f"{path} is no name of an archive", where="--output", hint="end it in .mar or .tar.gz")


def _take_manifest(folder: Path, archive: Path) -> tuple[Manifest, dict[str, Any]]:
    """Read the manifest and remove it from the folder, with all files beside it."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise UnreadableArchiveError(
            f"{archive} has no {MANIFEST_NAME}, so it is no archive of MXNet Model Server 1.0 or later",
            hint="unpack it, and build it again from its folder: torchmar build --model-path FOLDER --handler MODULE",
        )
    content = path.read_bytes()  # of a folder of our own
    manifest = Manifest.from_json(content)
    document = json.loads(content)
    for entry in sorted((folder / MANIFEST_DIRECTORY).rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    return manifest, document


def _kept(document: dict[str, Any]) -> dict[str, Any]:
    known = {key: document[key] for key in _OLD_KEYS if document.get(key) is not None}
    return {KEPT: known} if known else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
