"""Writes a planned archive: the same bytes from the same plan, whole or not at all.

The result grows in a temporary file (or folder) beside the target and is then given the target's name. Nothing is
staged elsewhere, and memory does not grow with the size of a member.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import secrets
import shutil
import stat
import tarfile
import time
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.layout import MANIFEST_NAME
from archive_tool.manifest import ZIP_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from archive_tool.plan import Member, Plan

_CHUNK: Final = 1 << 20
_ATTEMPTS: Final = 20
_ZIP_LATEST: Final = 4354819198  # 2107-12-31 23:59:58, the last moment that a zip archive can express
_FILE_MODE: Final = stat.S_IFREG | 0o644
_UNIX: Final = 3  # "made by" in a zip: the external attributes hold a Unix mode

_WEIGHTS = {".bin", ".ckpt", ".gguf", ".h5", ".npy", ".npz", ".onnx", ".pb", ".pkl", ".pt", ".pt2", ".pth", ".ptl"}
_BINARIES = {".dll", ".dylib", ".engine", ".plan", ".safetensors", ".so"}
_PACKED = {".7z", ".bz2", ".gz", ".lz4", ".mar", ".tgz", ".whl", ".xz", ".zip", ".zst"}
_MEDIA = {".avif", ".flac", ".gif", ".jpeg", ".jpg", ".m4a", ".mp3", ".mp4", ".ogg", ".png", ".webp", ".woff2"}
#: Deflating these costs seconds a gigabyte and gains next to nothing: weights, and what is packed already.
STORED_SUFFIXES: Final = frozenset(_WEIGHTS | _BINARIES | _PACKED | _MEDIA)

# link() is refused like this where a file system has no hard links.
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK}


def write(
    plan: Plan,
    target: Path,
    archive_format: str,
    *,
    force: bool = False,
    before_publish: Callable[[Path], None] | None = None,
) -> None:
    """Write a plan to its target.

    Args:
        plan: what goes in.
        target: the archive's path; its folder exists.
        archive_format: "default", "zip-store", "tgz" or "no-archive".
        force: replace what is there. A folder is replaced only if it is a model's: it holds a manifest, or nothing.
        before_publish: called with the complete result under its temporary name; what it raises ends the writing.

    Raises:
        TargetExistsError: the target is there and force was not given, or replacing it would be wrong.
        BuildError: a source cannot be read, or the result cannot be written. Nothing is left then.
    """
    as_folder = archive_format == "no-archive"
    check_target(target, as_folder=as_folder, force=force)
    # The name is known before anything exists, so whatever interrupts us, the cleanup finds it. It starts with a dot:
    # TorchServe does not load hidden files of a model store.
    temporary = target.parent / f".torchmar-{secrets.token_hex(8)}.tmp"
    try:
        if as_folder:
            _fill_folder(plan, temporary)
            _call(before_publish, temporary)
            _publish_folder(temporary, target, force=force)
        else:
            _fill_file(plan, temporary, archive_format)
            _call(before_publish, temporary)
            _publish_file(temporary, target, force=force)
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
    """Refuse a target that may not be written to; the check before any work is done.

    Raises:
        TargetExistsError: as `write`.
    """
    if not os.path.lexists(target):
        return
    if not force:
        raise TargetExistsError(f"{target} exists already", hint="give --force (-f) to replace it")
    is_folder = target.is_dir() and not target.is_symlink()
    if not as_folder and target.is_dir():
        raise TargetExistsError(f"{target} is a directory, and a file would replace it", hint="remove it first")
    if as_folder and not is_folder:
        raise TargetExistsError(f"{target} is not a directory, and one would replace it", hint="remove it first")
    if as_folder and any(_list(target)) and not (target / MANIFEST_NAME).is_file():
        raise TargetExistsError(
            f"{target} is a directory without {MANIFEST_NAME}, so it is no model of ours to replace",
            hint="remove it yourself if it is not needed, or choose another --export-path",
        )


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise TargetExistsError(f"cannot look into {folder}: {error.strerror}", where=str(folder)) from error


def _fill_file(plan: Plan, temporary: Path, archive_format: str) -> None:
    # "x": ours alone; and open() gives the permissions that the umask allows, where mkstemp would give 0600.
    with temporary.open("x+b") as stream:
        if archive_format == "tgz":
            _write_tar(plan, stream)
        else:
            _write_zip(plan, stream, store_all=archive_format == "zip-store")


def _write_zip(plan: Plan, stream: IO[bytes], *, store_all: bool) -> None:
    moment = time.gmtime(min(max(plan.seconds, ZIP_EPOCH), _ZIP_LATEST))
    with zipfile.ZipFile(stream, "w", strict_timestamps=True) as archive:
        for member in plan.all_members():
            stored = store_all or Path(member.name).suffix.lower() in STORED_SUFFIXES
            info = zipfile.ZipInfo(member.name, moment[:6])
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            info.create_system = _UNIX
            info.external_attr = _FILE_MODE << 16

            def write_member(source: IO[bytes], size: int, info: zipfile.ZipInfo = info) -> None:
                # The size decides whether the header needs ZIP64. As the stream can be rewound, zipfile then puts the
                # real sizes into the local header: Java reads a zip as a stream and needs them there.
                info.file_size = size
                with archive.open(info, "w") as sink:
                    shutil.copyfileobj(source, sink, _CHUNK)

            _with_source(member, write_member)


def _write_tar(plan: Plan, stream: IO[bytes]) -> None:
    # No file name and no time in the gzip header: both would differ from build to build.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in plan.all_members():
            # Java cuts the first component off every name.
            info = tarfile.TarInfo(f"{plan.model_name}/{member.name}")
            info.mtime = plan.seconds
            info.mode = 0o644

            def write_member(source: IO[bytes], size: int, info: tarfile.TarInfo = info) -> None:
                info.size = size
                archive.addfile(info, source)
                source.read(1)  # addfile stops at the size; this notices a file that grew meanwhile

            _with_source(member, write_member)


def _fill_folder(plan: Plan, temporary: Path) -> None:
    temporary.mkdir()
    for member in plan.all_members():
        path = temporary.joinpath(*member.name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)

        def write_member(source: IO[bytes], size: int, path: Path = path) -> None:  # noqa: ARG001
            with path.open("xb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)

        _with_source(member, write_member)


class _Source(io.RawIOBase):
    """A file that counts what is read of it, and whose own errors are told from those of the target."""

    def __init__(self, stream: IO[bytes], path: Path, size: int) -> None:
        self._stream = stream
        self._path = path
        self._size = size
        self._count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise BuildError(f"cannot read {self._path}: {error.strerror}", where=str(self._path)) from error
        self._count += len(data)
        # Stop at once: a file that grows while it is read would never end, and its header holds another size.
        if self._count > self._size or (not data and size and self._count < self._size):
            raise BuildError(
                f"{self._path} changed while it was read",
                where=str(self._path),
                hint="build again when it is complete",
            )
        return data


def _with_source(member: Member, use: Callable[[IO[bytes], int], None]) -> None:
    """Open a member's source and hand it to the writer, with its exact size."""
    if isinstance(member.source, bytes):
        use(io.BytesIO(member.source), len(member.source))
        return
    try:
        stream = member.source.open("rb")
    except OSError as error:
        raise BuildError(f"cannot read {member.source}: {error.strerror}", where=str(member.source)) from error
    with stream:
        size = os.fstat(stream.fileno()).st_size
        use(cast("IO[bytes]", _Source(stream, member.source, size)), size)


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
                # Not every system can swap two folders at once: the old one steps aside for a moment.
                with contextlib.suppress(FileNotFoundError):
                    target.rename(old)
            try:
                temporary.rename(target)
            except OSError as error:
                # Another build of this name came between; its folder is not empty, so the rename could not replace it.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                return
        raise BuildError(f"{target} is being written by other builds all the time", where=str(target))
    finally:
        if old.exists():
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(target)
