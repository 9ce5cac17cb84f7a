"""From what a registration names to files that workers can load: find, fetch and unpack archives (ModelArchive.java).

Everything here may wait for disks and networks: it runs in a thread, not in the event loop.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import tarfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote

from archive_tool import files
from archive_tool.building.samples import content_type_of
from archive_tool.config import default_answer, effective
from archive_tool.config.safe_yaml import MAX_BYTES
from archive_tool.errors import ArchiveError, TorchmarError
from archive_tool.metadata.manifest import Manifest
from archive_tool.reading.archive import Archive, open_archive
from serving.frontend.errors import BadRequestError, FrontendError, InternalError, ModelError, ModelNotFoundError
from serving.frontend.local.models.model import DefaultAnswer, Unpacked
from serving.frontend.settings import Settings

logger = logging.getLogger(__name__)

_CHUNK: Final = 1 << 20
_TIMEOUT_S: Final = 60.0
# Characters of a URL in a message.
_SHOWN: Final = 200
#: Bytes that are fetched for one archive.
_MAX_FETCHED: Final = 64 * 1024**3
_URL: Final = re.compile(r"(file|https?)://", re.IGNORECASE)
# Names of files that are being fetched; hidden ones, which no server takes for archives.
_FETCHING: Final = (".torchmar-fetching-", ".tmp")
# Seconds in which whoever has made such a file has also locked it.
_LOCKED_S: Final = 60.0
# Of this process: a server that ends waits for no one's download, and leaves no half file.
_unfinished: set[Path] = set()


def unpack(url: str, settings: Settings) -> Unpacked:
    """Find an archive and unpack it below the server's runtime folder.

    Args:
        url: name in the model store, path of a folder, or a URL that ``allowed_urls`` matches.
        settings: of the server.

    Raises:
        ModelNotFoundError: there is none.
        BadRequestError, ModelError: it cannot be fetched or read.
        InternalError: it cannot be stored.
    """
    with _explained(url):
        path = _find(url, settings)
        try:
            return _opened(path, url, settings)
        except BaseException:
            remove_fetched(url, settings)
            raise


def found(url: str, settings: Settings) -> Path:
    """Find an archive, and fetch it if need be; see `unpack`, which does that, too."""
    with _explained(url):
        return _find(url, settings)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except ArchiveError as error:
        raise ModelError(f"{url}: {error.message}") from error
    except TorchmarError as error:
        raise BadRequestError(f"{url}: {error.message}") from error
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise InternalError(f"Failed to save model: {url}: {getattr(error, 'strerror', None) or error}") from error


def clean(unpacked: Unpacked) -> None:
    """Remove what `unpack` has made of an archive that stays registered: its server ends."""
    if unpacked.owned is not None:
        shutil.rmtree(unpacked.owned, ignore_errors=True)


def forget_unfinished() -> None:
    """Remove what is being fetched; who still fetches it fails."""
    for path in tuple(_unfinished):
        path.unlink(missing_ok=True)


def remove_abandoned(store: Path) -> None:
    """Remove what servers have begun to fetch that were killed meanwhile; what a living one fetches is locked."""
    first, last = _FETCHING
    for path in store.glob(f"{first}*{last}"):
        with contextlib.suppress(OSError), open(path, "r+b", opener=files.opener) as found:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            about = os.fstat(found.fileno())
            if about.st_size or time.time() - about.st_mtime > _LOCKED_S:
                path.unlink()
                logger.warning("%s is removed: it was being fetched when its server was killed", path.name)


def remove(unpacked: Unpacked, settings: Settings) -> None:
    """Remove what `unpack` has made, and the archive itself if it was fetched."""
    clean(unpacked)
    remove_fetched(unpacked.url, settings)


def remove_fetched(url: str, settings: Settings) -> None:
    """Remove an archive if it was fetched."""
    if _URL.match(url):
        with contextlib.suppress(OSError):
            (settings.place.model_store / file_name(url)).unlink()


def _find(url: str, settings: Settings) -> Path:
    # Decoded, too: a path is read so, and must not lead out of what allowed_urls allows.
    if not url or ".." in unquote(url):
        raise ModelNotFoundError(f"Relative path is not allowed in url: {url}" if url else "empty url")
    store = settings.place.model_store
    if _URL.match(url):
        return _fetched(url, store / file_name(url), settings)
    name = file_name(url)
    if _looked(Path.is_file, store / name, url):
        return store / name
    folders = [folder for folder in (Path(url), store / name) if folder.is_absolute()]
    found = next((folder for folder in folders if _looked(Path.is_dir, folder, url)), None)
    if found is None:
        raise ModelNotFoundError(f"Model not found at: {url}")
    return _only_child(found)


def _looked(look: Callable[[Path], bool], path: Path, url: str) -> bool:
    """Return what a look at a file says.

    Raises:
        ModelNotFoundError: there can be no file of that name, or it cannot be looked at.
    """
    try:
        return look(path)
    except OSError as error:
        shown = url if len(url) <= _SHOWN else f"{url[:_SHOWN]}..."
        raise ModelNotFoundError(f"Model not found at: {shown}: {error.strerror}") from error


def file_name(url: str) -> str:
    """Tell what an archive is called in the model store."""
    return url.rstrip("/").rpartition("/")[2].partition("?")[0]


def _only_child(folder: Path) -> Path:
    """Enter a folder's one entry if that is a folder, as TorchServe does."""
    children = list(folder.iterdir())
    return children[0] if len(children) == 1 and children[0].is_dir() else folder


def _opened(path: Path, url: str, settings: Settings) -> Unpacked:
    models = settings.place.runtime / "models"
    models.mkdir(mode=0o700, exist_ok=True)
    owned = models / uuid.uuid4().hex
    with open_archive(path) as archive:
        archive.check_safe()
        manifest = archive.manifest
        config = None
        if manifest is not None and (name := manifest.model.config_file):
            with contextlib.suppress(ArchiveError):  # the worker will say what is wrong with it
                config = archive.read(name, MAX_BYTES)
        default, task = _default_answer(archive, config), _task(manifest)
        if path.is_dir():
            # Not copied: the user may change the files, and weights may be large.
            owned.mkdir(mode=0o700)
            (owned / path.name).symlink_to(path)
            return Unpacked(owned / path.name, owned, url, manifest, config, default, task)
        try:
            _copy_members(archive, owned)
        except BaseException:
            shutil.rmtree(owned, ignore_errors=True)
            raise
    return Unpacked(owned, owned, url, manifest, config, default, task)


def _task(manifest: Manifest | None) -> str:
    """Return what a model is for, as far as its manifest records it."""
    with contextlib.suppress(ArchiveError):  # what is wrong with a record is nothing that an answer needs
        if manifest is not None and (record := manifest.record) is not None and record.pretrained is not None:
            return record.pretrained.task
    return ""


def _default_answer(archive: Archive, config: bytes | None) -> DefaultAnswer | None:
    """Read the file that model-config.yaml names for answers that do not come in time.

    Raises:
        ModelError: it names none that can be sent. Without it, clients would see errors that were to be hidden.
    """
    understood = effective.understand(config)
    key = default_answer.KEY
    if key not in understood.document:
        return None
    asked = default_answer.read(understood.document)
    if asked is None:
        reason = next(one.reason for one in understood.ignored if one.key == key)
        raise ModelError(f"{key} in the model's configuration is wrong: {reason}")
    if problem := default_answer.file_problem(asked, {member.name: member.size for member in archive.members}):
        raise ModelError(f"{problem}: {default_answer.HINT}")
    if understood.value(key) is None:
        return None
    body = archive.read(asked.file, default_answer.MAX_BYTES)
    return DefaultAnswer(body, asked.content_type or content_type_of(asked.file))


def _copy_members(archive: Archive, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    needed = sum(entry.size for entry in archive.entries)
    if needed > free:
        raise OSError(f"it needs {needed} bytes, {free} are free in {folder.parent}")
    folder.mkdir(mode=0o700)
    for entry, stream in archive.stream(list(archive.entries)):
        target = folder.joinpath(*entry.name.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as sink:  # of several members of one name the last one stands, as in TorchServe
            left = entry.size
            while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
                sink.write(chunk)
                left -= len(chunk)


def _fetched(url: str, target: Path, settings: Settings) -> Path:
    """Fetch an archive into the model store."""
    allowed = settings.text("allowed_urls") or "file://.*|http(s)?://.*"
    if not any(_matches(pattern, url) for pattern in allowed.split(",")):
        raise ModelNotFoundError(f"Given URL {url} does not match any allowed URL(s)")
    if _looked(Path.exists, target, url):
        raise InternalError(f"Model file already exists {target.name}")
    import httpx  # it takes a tenth of a second, which no start of a server needs

    temporary = target.with_name(uuid.uuid4().hex.join(_FETCHING))
    _unfinished.add(temporary)
    try:
        with temporary.open("xb") as sink:
            with contextlib.suppress(OSError):  # not every file system has locks; there nobody can have this one
                fcntl.flock(sink, fcntl.LOCK_EX)
            if url.lower().startswith("file://"):
                with files.open_regular(httpx.URL(url).path) as source:
                    shutil.copyfileobj(source, sink, _CHUNK)
            else:
                _download(url, sink)
            sink.flush()
            os.link(temporary, target)  # fails where somebody else has put one meanwhile
    except FrontendError:
        raise
    except FileExistsError:
        raise InternalError(f"Model file already exists {target.name}") from None
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:  # ValueError: no UTF-8, or a null
        raise BadRequestError(f"Failed to download archive from: {url}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
        _unfinished.discard(temporary)
    return target


def _download(url: str, sink: IO[bytes]) -> None:
    import httpx

    with httpx.stream("GET", url, timeout=_TIMEOUT_S, follow_redirects=False) as response:
        if response.status_code != httpx.codes.OK:
            raise BadRequestError(f"Failed to download archive from: {url}, code: {response.status_code}")
        count = 0
        for chunk in response.iter_bytes(_CHUNK):
            count += len(chunk)
            if count > _MAX_FETCHED:
                raise BadRequestError(f"Failed to download archive from: {url}: it has more than {_MAX_FETCHED} bytes")
            sink.write(chunk)


def _matches(pattern: str, url: str) -> bool:
    try:
        return re.fullmatch(pattern.strip(), url, re.IGNORECASE) is not None
    except re.error:
        return False
