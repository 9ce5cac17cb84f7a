"""Which archives a server is asked for, and whether they are there and readable before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archive_tool.errors import InputError
from archive_tool.reader import open_archive
from serving.control.config import ModelSpec

DEFAULT_STORE = Path("model_store")
LOAD_ALL = "all"
# What the frontend takes for an archive when it loads the whole store.
ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz")


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
        """The files and folders that the frontend will read, each once."""
        if self.load_all:
            return all_archives(self.store)
        return [self.store / name for name in dict.fromkeys(model.archive for model in self.models)]


def all_archives(store: Path) -> list[Path]:
    """What the frontend takes for the archives of a store.

    Raises:
        OSError: it cannot be read.
    """
    found = sorted(path for path in store.iterdir() if not path.name.startswith("."))
    return [path for path in found if path.is_dir() or path.name.endswith(ARCHIVE_SUFFIXES)]


def select(
    wanted: Sequence[str], *, model_store: Path | None, properties: Mapping[str, str], config_folder: Path
) -> Selection:
    """Finds the model store and the archives.

    Args:
        wanted: ``NAME=ARCHIVE``, ``ARCHIVE`` or ``all``; an archive is a file of the store, or a path whose folder
            becomes the store when no other is named.
        model_store: of the command line.
        properties: of config.properties.
        config_folder: what a relative ``model_store`` of the configuration is relative to.

    Raises:
        InputError: no store, or an archive that is not in it.
        archive_tool.errors.ArchiveError: an archive that cannot be read.
    """
    named = [text for given in wanted for text in split_list(given)]
    if not named:
        named = split_list(properties.get("load_models", ""))
    load_all = [text.lower() for text in named] == [LOAD_ALL]
    specs = [] if load_all or [text.lower() for text in named] == ["none"] else [ModelSpec.parse(t) for t in named]
    store = _store(specs, model_store, properties, config_folder)
    models = tuple(_in_store(spec, store) for spec in specs)
    if load_all:
        for path in all_archives(store):
            check_archive(path)
    seen: dict[str, ModelSpec] = {}
    for spec in models:
        if spec.name in seen and seen[spec.name].archive == spec.archive:
            raise InputError(f"model {spec.name} is named twice", hint="name each model once")
        seen[spec.name] = spec
        check_archive(store / spec.archive)
    return Selection(store, models, load_all)


def split_list(text: str) -> list[str]:
    """The parts of a list with commas; a text that names an existing archive is one part, commas and blanks or not."""
    archive = text.partition("=")[2] or text
    if archive.strip() and Path(archive).exists():
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
        folders = {Path(spec.archive).resolve().parent for spec in specs if Path(spec.archive).exists()}
        chosen = folders.pop() if len(folders) == 1 else DEFAULT_STORE
        origin = "the default model store"
    if not chosen.is_dir():
        raise InputError(
            f"the model store is not a folder: {chosen} ({origin})",
            hint="name the folder that holds your archives with --model-store",
        )
    return chosen.resolve()


def _in_store(spec: ModelSpec, store: Path) -> ModelSpec:
    return ModelSpec(spec.name, name_in_store(spec.archive, store))


def name_in_store(archive: str, store: Path) -> str:
    """The archive's name inside the store; the frontend looks at nothing but that name.

    Raises:
        InputError: it lies elsewhere, or nowhere.
    """
    given = Path(archive.rstrip("/"))
    if len(given.parts) > 1 and given.exists() and given.resolve().parent != store.resolve():
        raise InputError(
            f"{archive} is not in the model store {store}",
            hint=f"copy it there, or start the server with --model-store {given.parent}",
        )
    if not (store / given.name).exists():
        there = sorted(path.name for path in store.iterdir() if not path.name.startswith("."))
        raise InputError(
            f"no archive {given.name} in the model store {store}",
            hint=f"the store holds: {', '.join(there[:12])}" if there else "the store is empty: torchmar build first",
        )
    return given.name


def check_archive(path: Path) -> None:
    """Opens an archive as the frontend will.

    Raises:
        archive_tool.errors.ArchiveError: it cannot be read, or reading it is not safe.
    """
    with open_archive(path) as archive:
        _ = archive.manifest
