"""The archives that a server is asked for; found and read before anything is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from archive_tool.config import effective
from archive_tool.config.safe_yaml import MAX_BYTES
from archive_tool.errors import ArchiveError, InputError
from archive_tool.metadata.names import MANIFEST_NAME
from archive_tool.reading.archive import open_archive
from serving.control.configuration.config import ModelSpec, is_url

DEFAULT_STORE = Path("model_store")
LOAD_ALL = "all"
# What the frontend takes for an archive when it loads the whole store.
ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz")
# What the frontend can fetch an archive from.
_FETCHED = re.compile(r"(https?|file)://.", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """What to load at the start.

    Attributes:
        store: absolute path of the model store.
        models: the models asked for by name; empty leaves it to the configuration.
        load_all: every archive of the store.
    """

    store: Path
    models: tuple[ModelSpec, ...]
    load_all: bool = False

    def archives(self) -> list[Path]:
        """Return the files and folders of the store that the frontend will read, each once."""
        if self.load_all:
            return all_archives(self.store)
        names = dict.fromkeys(model.archive for model in self.models)
        return [self.store / name for name in names if not is_url(name)]

    def names(self, archive: str) -> bool:
        """Return whether an archive is asked for, by its name in the store or its URL."""
        return self.load_all or any(archive == model.archive for model in self.models)

    def without_effect(self) -> Iterator[str]:
        """List the settings of archives that TorchServe silently ignores; it serves them all the same.

        Raises:
            archive_tool.errors.ArchiveError: one cannot be read.
        """
        for archive in self.archives():
            document = config_of(archive).document
            least, most = document.get("minWorkers"), document.get("maxWorkers")
            if isinstance(least, int) and isinstance(most, int) and most < least:
                yield (
                    f"{archive.name}: maxWorkers is less than minWorkers in its model-config.yaml ({most} < {least}), "
                    "and TorchServe will ignore both"
                )


def all_archives(store: Path) -> list[Path]:
    """Return what the frontend takes for the archives of a store.

    Raises:
        OSError: the store cannot be read.
    """
    found = sorted(path for path in store.iterdir() if not path.name.startswith("."))
    return [path for path in found if path.is_dir() or path.name.endswith(ARCHIVE_SUFFIXES)]


def archives_in(folder: Path) -> list[Path]:
    """Return the archives that a folder holds, by their names; the folder itself, if it is an unpacked one.

    Other folders and files beside them are none: weights, code, what a platform has put there.

    Raises:
        OSError: the folder cannot be read.
    """
    if _is_unpacked(folder):
        return [folder]
    return [path for path in all_archives(folder) if not path.is_dir() or _is_unpacked(path)]


def _is_unpacked(folder: Path) -> bool:
    return (folder / MANIFEST_NAME).is_file()


def select(
    wanted: Sequence[str], *, model_store: Path | None, properties: Mapping[str, str], config_folder: Path
) -> Selection:
    """Find the model store and the archives.

    Args:
        wanted: ``NAME=ARCHIVE``, ``ARCHIVE`` or ``all``; an archive is a file of the store, or a path whose folder
            becomes the store when no other is named, or a URL that ``allowed_urls`` matches.
        model_store: of the command line.
        properties: of config.properties.
        config_folder: what a relative ``model_store`` of the configuration is relative to.

    Raises:
        InputError: no store, or an archive that is not in it, or a URL that the server may not fetch.
        archive_tool.errors.ArchiveError: an archive that cannot be read.
    """
    named = [text for given in wanted for text in split_list(given)]
    if not named:
        named = split_list(properties.get("load_models", ""))
    specs, load_all = asked(named)
    store = _store(specs, model_store, properties, config_folder)
    if load_all:
        for path in all_archives(store):
            check_archive(path)
    models: list[ModelSpec] = []
    for spec in specs:
        archive = archive_to_load(spec.archive, store, properties)
        name = spec.name if is_url(archive) else spec.name or default_name(store / archive)
        model = ModelSpec(name, archive)
        if model in models:
            raise InputError(f"model {name or archive} is named twice", hint="name each model once")
        models.append(model)
        if spec.name and not is_url(archive):
            check_archive(store / archive)
    return Selection(store, tuple(models), load_all)


def restored(
    specs: Sequence[ModelSpec], *, model_store: Path | None, properties: Mapping[str, str], config_folder: Path
) -> Selection:
    """Find the archives of models that were served before, whatever these are called; as `select` otherwise.

    Raises:
        InputError: no store, or an archive that is not in it, or a URL that the server may not fetch.
    """
    store = _store(specs, model_store, properties, config_folder)
    models = (ModelSpec(spec.name, archive_to_load(spec.archive, store, properties)) for spec in specs)
    return Selection(store, tuple(dict.fromkeys(models)))


def asked(named: Sequence[str]) -> tuple[list[ModelSpec], bool]:
    """Understand a list of models: which, and whether it is every archive of the store.

    Raises:
        InputError: one is not a model.
    """
    words = [text.lower() for text in named]
    return [] if words in ([LOAD_ALL], ["none"]) else [ModelSpec.parse(text) for text in named], words == [LOAD_ALL]


def at_start(
    models: Sequence[ModelSpec], properties: Mapping[str, str], store: Path, *, load_all: bool
) -> Sequence[ModelSpec]:
    """Return what a server begins with: the models that are named, else those of ``load_models``.

    Args:
        models: that are named.
        properties: of the configuration.
        store: the model store.
        load_all: whether it is every archive there.

    Raises:
        InputError: ``load_models`` cannot be understood.
    """
    if not models and not load_all:
        models, load_all = asked(split_list(properties.get("load_models", "").strip()))
    return [ModelSpec("", path.name) for path in all_archives(store)] if load_all else models


def split_list(text: str) -> list[str]:
    """Split a list at commas; a text that names an existing archive is one part, commas and blanks or not."""
    archive = text.partition("=")[2] or text
    if archive.strip() and _is_there(Path(archive)):
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]


def _store(
    specs: Sequence[ModelSpec], model_store: Path | None, properties: Mapping[str, str], config_folder: Path
) -> Path:
    if model_store is not None:
        chosen, origin = model_store, "--model-store"
    elif "model_store" in properties:
        chosen, origin = config_folder / properties["model_store"], "model_store of config.properties"
    else:
        folders = {_absolute(spec.archive).parent.resolve() for spec in specs if _is_there(Path(spec.archive))}
        chosen = folders.pop() if len(folders) == 1 else DEFAULT_STORE
        origin = "the default model store"
    if not chosen.is_dir():
        raise InputError(
            f"the model store is not a folder: {chosen} ({origin})",
            hint="name the folder that holds your archives with --model-store",
        )
    return chosen.resolve()


def archive_to_load(given: str, store: Path, properties: Mapping[str, str]) -> str:
    """Return what the frontend needs for an archive: its name inside the store, or the URL to fetch it from.

    Args:
        given: as the user wrote it.
        store: the server's model store.
        properties: of the server.

    Raises:
        InputError: it is not in the store, or a URL that the server may not fetch.
    """
    if not is_url(given):
        return name_in_store(given, store)
    if not _FETCHED.match(given):
        raise InputError(
            f"{given} cannot be fetched: TorchServe knows http, https and file",
            hint=f"download it into the model store {store}",
        )
    allowed = properties.get("allowed_urls", "")
    if not any(_matches(pattern, given) for pattern in allowed.split(",")):
        raise InputError(
            f"the server may not fetch {given}: allowed_urls={allowed} of its configuration does not match it",
            hint=f"download it into the model store {store}, or start the server with allowed_urls that match it",
        )
    return given


def _matches(pattern: str, url: str) -> bool:
    try:
        return re.fullmatch(pattern, url, re.IGNORECASE) is not None
    except re.error:
        return True  # perhaps of Java's own syntax: the frontend decides


def name_in_store(archive: str, store: Path) -> str:
    """Return the archive's name inside the store; the frontend looks at nothing but that name.

    Raises:
        InputError: it lies elsewhere, or does not exist.
    """
    has_folder = "/" in archive.rstrip("/") or archive in (".", "..")
    given = _absolute(archive) if has_folder else store / archive.rstrip("/")
    if has_folder and not _is_there(given):
        raise InputError(
            f"no such archive: {archive}",
            hint=f"name an archive of the model store {store} without a folder",
        )
    if has_folder and given.parent.resolve() != store.resolve():
        raise InputError(
            f"{archive} is not in the model store {store}",
            hint=f"copy it there, or start the server with --model-store {given.parent}",
        )
    if not _is_there(given):
        there = sorted(path.name for path in store.iterdir() if not path.name.startswith("."))
        raise InputError(
            f"no archive {given.name} in the model store {store}",
            hint=f"the store holds: {', '.join(there[:12])}" if there else "the store is empty: torchmar build first",
        )
    return given.name


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no file can have that name
        return False


def name_for_unknown_store(archive: str) -> str:
    """Return the archive for a server whose model store is unknown: a name, a URL, or a folder by its path.

    Raises:
        InputError: it is a path; the server would take the file of that name from its store, whatever it holds.
    """
    name = Path(archive).name
    if "/" not in archive.rstrip("/") or is_url(archive) or not name.endswith(ARCHIVE_SUFFIXES):
        return archive
    raise InputError(
        f"{archive} has a folder: the server looks for archives in its own model store only",
        hint=f"copy it there and register {name}",
    )


def _absolute(archive: str) -> Path:
    """Return the path without ``.`` and ``..``; links are kept, for a link in the store is an archive of the store."""
    return Path(os.path.abspath(archive))  # noqa: PTH100 - Path.absolute keeps "..", resolve follows links


def default_name(archive: Path) -> str:
    """Return the model's default name: the manifest's, else the file's (as in TorchServe).

    Raises:
        archive_tool.errors.ArchiveError: the archive cannot be read.
    """
    with open_archive(archive) as opened:
        manifest = opened.manifest
    return (manifest and manifest.model.model_name) or ModelSpec.stem(archive.name)


def config_of(archive: Path) -> effective.Effective:
    """Return what the frontend makes of an archive's own configuration.

    Raises:
        archive_tool.errors.ArchiveError: the archive cannot be read.
    """
    text = None
    with open_archive(archive) as opened:
        if opened.manifest and (name := opened.manifest.model.config_file):
            with suppress(ArchiveError):  # its configuration cannot be read: the worker reports it
                text = opened.read(name, MAX_BYTES)
    return effective.understand(text)


def check_archive(path: Path) -> None:
    """Open an archive as the frontend will.

    Raises:
        archive_tool.errors.ArchiveError: it cannot be read, or reading it is not safe.
    """
    with open_archive(path) as archive:
        _ = archive.manifest
