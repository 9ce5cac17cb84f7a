"""Writing a planned archive: the same bytes from the same plan, whole or not at all.

The result grows in a temporary file (or folder) beside the target and is then given the target's name. Nothing is
staged elsewhere, and memory does not grow with the size of a member.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.metadata.names import MANIFEST_NAME
from archive_tool.metadata.record import MemberRecord, Record
from archive_tool.writing import zip_writer
from archive_tool.writing.copying import Copier, Sums, open_source, write_all
from archive_tool.writing.deflate import Compressor, GzipWriter

if TYPE_CHECKING:
    import io

    from archive_tool.metadata.manifest import Manifest
    from archive_tool.writing.copying import Source
    from archive_tool.writing.plan import Plan

#: Called while an archive is written, with the bytes of the members done, and of all.
Progress = Callable[[int, int], None]

_ATTEMPTS: Final = 20
_TAR_BLOCK: Final = 512
_TAR_RECORD: Final = 20 * _TAR_BLOCK

_WEIGHTS = {".bin", ".ckpt", ".gguf", ".h5", ".npy", ".npz", ".onnx", ".pb", ".pkl", ".pt", ".pt2", ".pth", ".ptl"}
_BINARIES = {".dll", ".dylib", ".engine", ".plan", ".safetensors", ".so"}
_PACKED = {".7z", ".bz2", ".gz", ".lz4", ".mar", ".tgz", ".whl", ".xz", ".zip", ".zst"}
_MEDIA = {".avif", ".flac", ".gif", ".jpeg", ".jpg", ".m4a", ".mp3", ".mp4", ".ogg", ".png", ".webp", ".woff2"}
#: Deflating these costs seconds a gigabyte and gains next to nothing: weights, and what is packed already.
STORED_SUFFIXES: Final = frozenset(_WEIGHTS | _BINARIES | _PACKED | _MEDIA)

# The errors of link() where a file system has no hard links.
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK}


def write(
    plan: Plan,
    target: Path,
    archive_format: str,
    *,
    force: bool = False,
    compress: bool = False,
    progress: Progress | None = None,
    before_publish: Callable[[Path], None] | None = None,
) -> Manifest:
    """Write a plan to its target; return the manifest, whose record now has all the members.

    Args:
        plan: the archive's content.
        target: the archive's path; its folder exists.
        archive_format: "default", "zip-store", "tgz" or "no-archive".
        force: replace an existing archive. A folder is replaced only if it is a model's: it holds a manifest, or
            nothing.
        compress: deflate weights too; a "tgz" always does, "zip-store" and "no-archive" never do.
        progress: called from time to time.
        before_publish: called with the complete result under its temporary name; what it raises ends the writing.

    Raises:
        TargetExistsError: the target exists and force was not given, or replacing it would be wrong.
        BuildError: a source cannot be read, or the result cannot be written. Nothing is left then.
    """
    as_folder = archive_format == "no-archive"
    check_target(target, as_folder=as_folder, force=force)
    # The name is known before anything exists, so the cleanup finds it after any interrupt. It starts with a dot:
    # TorchServe does not load hidden files of a model store.
    temporary = target.parent / f".torchmar-{os.urandom(8).hex()}.tmp"
    try:
        if as_folder:
            manifest = _fill_folder(plan, temporary, progress)
            _call(before_publish, temporary)
            _publish_folder(temporary, target, force=force)
        else:
            manifest = _fill_file(plan, temporary, archive_format, compress, progress)
            _call(before_publish, temporary)
            _publish_file(temporary, target, force=force)
        return manifest
    except OSError as error:
        raise BuildError(f"cannot write {target}: {error.strerror or error}", where=str(target)) from error
    finally:
        if as_folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _call(hook: Callable[[Path], None] | None, temporary: Path) -> None:
    if hook is not None:
        hook(temporary)


def check_target(target: Path, *, as_folder: bool, force: bool) -> None:
    """Refuse a target that may not be written to, before any work is done.

    Raises:
        TargetExistsError: as `write`.
    """
    for _ in range(_ATTEMPTS):
        found = _look(target)
        if found is None:
            return
        if not force:
            raise TargetExistsError(f"{target} exists already", hint="give --force (-f) to replace it")
        is_folder = stat.S_ISDIR(found.st_mode)
        if not as_folder and (is_folder or target.is_dir()):
            raise TargetExistsError(f"{target} is a directory, and a file would replace it", hint="remove it first")
        if as_folder and not is_folder:
            raise TargetExistsError(f"{target} is not a directory, and one would replace it", hint="remove it first")
        if not as_folder or _is_model_or_empty(target):
            return
        # Judged only if it existed all the time: another build of this name may be replacing it just now.
        again = _look(target)
        if again is not None and again.st_ino == found.st_ino:
            break
    raise TargetExistsError(
        f"{target} is a directory without {MANIFEST_NAME}, so it is no model of ours to replace",
        hint="remove it yourself if it is not needed, or choose another --export-path",
    )


def _look(target: Path) -> os.stat_result | None:
    try:
        return target.lstat()
    except OSError:  # missing, or reported when it is written
        return None


def _is_model_or_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir()) or (folder / MANIFEST_NAME).is_file()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise TargetExistsError(f"cannot look into {folder}: {error.strerror}", where=str(folder)) from error


class _Sink(Protocol):
    """One of an archive's formats, being written."""

    def add(self, name: str, source: Source, copier: Copier) -> Sums:
        """Write the next member."""

    def close(self) -> None:
        """Write what follows the last one."""


def _fill_file(plan: Plan, temporary: Path, archive_format: str, compress: bool, progress: Progress | None) -> Manifest:
    # "x": ours alone; and open() sets the permissions that the umask allows, where mkstemp would set 0600.
    with temporary.open("x+b", buffering=0) as file, Compressor() as compressor:
        sink: _Sink
        if archive_format == "tgz":
            sink = _TarSink(file, compressor, plan)
        else:
            stored = "all" if archive_format == "zip-store" else "none" if compress else "packed"
            sink = _ZipSink(file, compressor, plan.seconds, stored)
        return _fill(plan, sink, progress)


def _fill_folder(plan: Plan, temporary: Path, progress: Progress | None) -> Manifest:
    temporary.mkdir()
    return _fill(plan, _FolderSink(temporary), progress)


def _fill(plan: Plan, sink: _Sink, progress: Progress | None) -> Manifest:
    """Write the members, then the manifest, which records them; return the manifest."""
    with Copier(_counter(plan, progress) if progress else None) as copier:
        written = {}
        for member in plan.members:
            with open_source(member.source) as source:
                written[member.name] = sink.add(member.name, source, copier)
        copier.settle()
        members = {name: MemberRecord(sums.sha256.hexdigest(), sums.size) for name, sums in written.items()}
        manifest = plan.manifest.with_record(replace(plan.manifest.record or Record(), members=members))
        with open_source(manifest.to_json()) as source:
            sink.add(MANIFEST_NAME, source, copier)
        sink.close()
    return manifest


def _counter(plan: Plan, progress: Progress) -> Callable[[int], None]:
    total = 0
    for member in plan.members:
        with contextlib.suppress(OSError):  # reported when it is opened
            total += len(member.source) if isinstance(member.source, bytes) else member.source.stat().st_size
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done = min(total, done + count)  # the manifest is not in the total
        progress(done, total)

    return advance


class _ZipSink:
    def __init__(self, file: io.FileIO, compressor: Compressor, seconds: int, stored: str) -> None:
        self._file = file
        self._compressor = compressor
        self._zip = zip_writer.ZipWriter(file, seconds)
        self._stored = stored

    def add(self, name: str, source: Source, copier: Copier) -> Sums:
        packed = Path(name).suffix.lower() in STORED_SUFFIXES
        if self._stored == "all" or (self._stored == "packed" and packed):
            member = self._zip.begin(name, zip_writer.STORED, source.size)
            sums = copier.copy(source, self._file, member.start)
            self._zip.end(member, size=sums.size, packed=sums.size, crc=sums.crc)
            return sums
        member = self._zip.begin(name, zip_writer.DEFLATED, source.size)
        sums = Sums(source.size)
        self._file.seek(member.start)
        stream = self._compressor.stream(lambda data: write_all(self._file, data))
        left = source.size
        for block in copier.blocks(source, sums):
            left -= len(block)
            stream.add(block, last=not left)
        self._zip.end(member, size=sums.size, packed=self._file.tell() - member.start, crc=sums.crc)
        return sums

    def close(self) -> None:
        self._zip.close()


class _TarSink:
    def __init__(self, file: io.FileIO, compressor: Compressor, plan: Plan) -> None:
        self._packed = GzipWriter(compressor, lambda data: write_all(file, data))
        self._root = plan.model_name
        self._seconds = plan.seconds

    def add(self, name: str, source: Source, copier: Copier) -> Sums:
        import tarfile  # for this format only

        # Java cuts the first component off every name.
        info = tarfile.TarInfo(f"{self._root}/{name}")
        info.mtime = self._seconds
        info.mode = 0o644
        info.size = source.size
        sums = Sums(source.size)
        self._packed.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        for block in copier.blocks(source, sums):
            self._packed.write(block)
        self._packed.write(bytes(-source.size % _TAR_BLOCK))
        return sums

    def close(self) -> None:
        # Two empty blocks end a tar; GNU tar fills its last record, and complains about others that do not.
        self._packed.write(bytes(2 * _TAR_BLOCK))
        self._packed.write(bytes(-self._packed.size % _TAR_RECORD))
        self._packed.close()


class _FolderSink:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, source: Source, copier: Copier) -> Sums:
        path = self._folder.joinpath(*name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x+b", buffering=0) as file:
            return copier.copy(source, file)

    def close(self) -> None:
        """Do nothing: nothing follows the last file."""


def _publish_file(temporary: Path, target: Path, *, force: bool) -> None:
    if force:
        temporary.replace(target)
        return
    try:
        # Unlike a rename, a link never replaces what another build has put there in the meantime.
        os.link(temporary, target)
    except FileExistsError:
        check_target(target, as_folder=False, force=False)
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        check_target(target, as_folder=False, force=False)
        temporary.replace(target)


def _publish_folder(temporary: Path, target: Path, *, force: bool) -> None:
    old = temporary.with_suffix(".old")
    try:
        for _ in range(_ATTEMPTS):
            check_target(target, as_folder=True, force=force)
            if force:
                # Not every system can swap two folders at once: the old one is moved away for a moment.
                with contextlib.suppress(FileNotFoundError):
                    target.rename(old)
            if _rename_to_empty(temporary, target):
                return
            shutil.rmtree(old, ignore_errors=True)
        raise BuildError(f"{target} is being written by other builds all the time", where=str(target))
    finally:
        if temporary.exists() and old.exists():
            _rename_to_empty(old, target)
        shutil.rmtree(old, ignore_errors=True)


def _rename_to_empty(folder: Path, target: Path) -> bool:
    """Return whether the folder has the name now; not if another build has taken it, whose folder is not empty."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True
