"""A package of compiled code, unpacked only for as long as it is needed, so that nothing of it stays behind.

torch unpacks a package into a folder `aotinductor_XXXXXX` for temporary files (older versions always in /tmp, whatever
TMPDIR says), and removes it when the process ends normally. A worker is killed instead, and each would leave a copy of
the model there. So the package is unpacked here. Code for the CPU is in memory once it is loaded, and its files are
removed at once. The files of code for a GPU stay until the process ends. A killed process can leave a folder, if it was
killed while loading or while it served from a GPU. The next process that loads a package removes such folders: their
lock has gone with the process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import logging
import os
import re
import shutil
import stat
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

_PREFIX: Final = "torchmar-aot-"
_MAPS: Final = Path("/proc/self/maps")
_TORCHS: Final = Path("/tmp")  # noqa: S108 - where torch unpacks if it does not look at TMPDIR
_ATTEMPTS: Final = 20
#: The only file of a package; the loader that searches folders names it.
_ASKED: Final = "data/aotinductor/model/asked.so"
#: The loggers on which torch says that a folder is not a file, before it loads it.
_REMARKS: Final = ("torch.export.pt2_archive._package", "torch._inductor.package.package")


@functools.cache
def takes_folders() -> bool:
    """Return whether this torch loads a package that lies unpacked in a folder.

    Found by trial: for a folder with a single empty file, such a torch names that file in its error.
    """
    with tempfile.TemporaryDirectory() as name:
        asked = Path(name, _ASKED)
        asked.parent.mkdir(parents=True)
        asked.touch()
        try:
            load(Path(name))
        except Exception as error:  # torch raises whatever its loader runs into
            return asked.stem in str(error)
    return False


def load(place: Path, device_index: int = -1) -> Any:
    """Load a package with torch's own loader, from a file or, where `takes_folders`, from a folder.

    Raises:
        Exception: whatever torch raises, also `ImportError`: torch before 2.6 has no such loader.
    """
    import torch
    from torch._inductor import aoti_load_package

    if "device_index" not in inspect.signature(aoti_load_package).parameters:  # 2.6 takes the current device
        with torch.cuda.device(device_index):
            return aoti_load_package(str(place))
    if not place.is_dir():
        return aoti_load_package(str(place), device_index=device_index)
    remarks = [logging.getLogger(name) for name in _REMARKS]
    for one in remarks:
        one.addFilter(_nothing)
    try:
        return aoti_load_package(str(place), device_index=device_index)
    finally:
        for one in remarks:
            one.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:  # noqa: ARG001
    return False


@contextlib.contextmanager
def unpacked(package: Path, *, keep: bool) -> Iterator[Path]:
    """Yield the place to load a package from, and remove what was unpacked: at once, or, with `keep`, at exit."""
    if package.is_dir():
        yield _root(package)
        return
    if not takes_folders():
        begin, before = time.time(), _mapped()
        try:
            yield package
        finally:
            for folder in set() if keep else _mapped() - before:
                if _is_temporary(folder, begin):
                    shutil.rmtree(folder, ignore_errors=True)
        return
    sweep()
    folder, lock = _locked_folder()
    try:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(folder)
        yield _root(folder)
    except BaseException:
        keep = False
        raise
    finally:
        if keep:
            atexit.register(_remove, folder, lock)
        else:
            _remove(folder, lock)


def sweep() -> None:
    """Remove what killed processes left: our folders that no process holds a lock on."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = _lock(folder)
        if lock is not None:
            logger.info("Removing %s, which a process that was killed has left", folder)
            _remove(folder, lock)


def _locked_folder() -> tuple[Path, int | None]:
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _lock(folder)
        # Another process may have found it before it was locked, and taken it for an orphan.
        if folder.is_dir() and (lock is not None or not _has_locks()):
            return folder, lock
        if lock is not None:
            os.close(lock)
    raise OSError(f"no folder of {tempfile.gettempdir()} can be locked")


def _has_locks() -> bool:
    try:
        import fcntl  # noqa: F401 - not on Windows
    except ImportError:
        return False
    return True


def _lock(folder: Path) -> int | None:
    """Lock a folder that belongs to this user; None if another process holds it, or it is gone."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _root(folder: Path) -> Path:
    """Return the folder that has the package's `data`: newer packages have everything in a folder of their own name."""
    return next((path.parent for path in sorted(folder.glob("*/data")) if path.is_dir()), folder)


def _mapped() -> set[Path]:
    """Find the folders into which torch has unpacked packages, by the code of them that is mapped."""
    try:
        text = _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    # The names that mkdtemp gives; the prefix is that of newer versions.
    places = "|".join(
        re.escape(place.rstrip("/")) for place in {str(_TORCHS), os.environ.get("TMPDIR") or str(_TORCHS)}
    )
    made = rf" ((?:{places})/(?:aotinductor_)?[A-Za-z0-9]{{6}})/(?:[^/\n]+/)?data/aotinductor/[^\n]+\.so$"
    return {Path(found) for found in re.findall(made, text, re.MULTILINE)}


def _is_temporary(folder: Path, since: float) -> bool:
    """Return whether a folder is one that mkdtemp has just made for this user."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    made = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
    return made and found.st_uid == os.getuid() and found.st_ctime >= since - 1  # file systems round times
