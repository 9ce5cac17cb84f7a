"""Writing an archive anew with the installed copy of the handler SDK; the rest stays as it is."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from archive_tool.building import builder, vendoring
from archive_tool.errors import ArchiveError, BuildError
from archive_tool.inspection import sdk_copy
from archive_tool.metadata import names
from archive_tool.metadata.manifest import Manifest, build_time
from archive_tool.metadata.record import Record, python_version
from archive_tool.verification.extraction import extract
from archive_tool.verification.signing import signature_path
from archive_tool.version import __version__
from archive_tool.writing import writer
from archive_tool.writing.plan import Member, Plan

if TYPE_CHECKING:
    from archive_tool.reading.archive import Archive


def renew(
    archive: Archive, manifest: Manifest, target: Path, archive_format: str, *, force: bool
) -> builder.BuildResult:
    """Write the archive to a target with the installed SDK in place of its copy, and with new hashes.

    Raises:
        ArchiveError: it has no copy that can be renewed, or differs from its manifest's record.
        BuildError: it cannot be written.
        TargetExistsError: the target exists, and force is not set.
    """
    start = time.perf_counter()
    _check_copy(archive, manifest)
    if archive_format == "default" and archive.archive_format == "zip-store":
        archive_format = "zip-store"  # with the same suffix
    if not target.parent.is_dir():
        raise BuildError(
            f"the folder {target.parent} does not exist", where="--output", hint=f"mkdir -p {target.parent}"
        )
    writer.check_target(target, as_folder=False, force=force)
    record = replace(manifest.record or Record(python=python_version()), tool_version=__version__)
    # Beside the target: it needs as much room, and a folder for temporary files may be small.
    with tempfile.TemporaryDirectory(prefix=".torchmar-convert-", dir=target.parent) as scratch:
        folder = Path(scratch, "archive")
        # Nothing is loaded here, and the safety of its weights stays the same.
        extract(archive, folder, allow_pickles=[member.name for member in archive.members])
        kept = [
            Member(member.name, folder / member.name)
            for member in archive.members
            if not member.name.startswith(sdk_copy.PREFIX) and member.name != names.MANIFEST_NAME
        ]
        members = (*kept, *vendoring.sdk_members(vendoring.find_sdk()))
        plan = Plan.of(members, manifest.with_record(record), build_time())
        written = builder.write(plan, target, archive_format, force=force, compress=_is_compressed(archive))
    signed = signature_path(archive.path).exists()
    return replace(
        written,
        seconds=time.perf_counter() - start,
        warnings=("the signature is that of the old archive: sign the new one",) if signed else (),
    )


def _check_copy(archive: Archive, manifest: Manifest) -> None:
    copy = sdk_copy.find(archive, manifest)
    if copy is None:
        raise ArchiveError(f"{archive.path} is an archive for TorchServe already", hint="serve it as it is")
    if copy.state == "current":
        raise ArchiveError(
            f"{archive.path} is an archive for TorchServe already, with the handler SDK that is installed here",
            hint="serve it as it is",
        )
    if copy.state == "newer":
        raise ArchiveError(
            f"{archive.path} has the handler SDK {copy.version}, and {copy.installed} is installed here",
            hint="serve it as it is, or update torchmar",
        )


def _is_compressed(archive: Archive) -> bool:
    """Return whether files are deflated that by default are not."""
    return any(
        member.method == "deflated" and Path(member.name).suffix.lower() in writer.STORED_SUFFIXES
        for member in archive.members
    )
