"""Snapshots of a server's models, which TorchServe's frontend writes and restores, and torchmar's own in its format.

It writes one when it is ready, after each change and at its end, as ``config/<time>-<kind>.cfg`` in the folder of its
logs: its configuration and, as ``model_snapshot``, every version of every model with its workers, batches and timeouts.
So the newest one has the models of a server that was killed. A configuration with ``model_snapshot`` makes it restore
these models, whatever else it should load.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from archive_tool.errors import InputError
from archive_tool.metadata.manifest import FIRST_VERSION
from archive_tool.reading.archive import open_archive
from serving.control.configuration import frontends, settings
from serving.control.configuration.config import ModelSpec, read_properties, write_properties
from serving.control.state import StateFolder

KEY: Final = "model_snapshot"
_FILE: Final = re.compile(r"\d{17}-(startup|snapshot|shutdown)\.cfg")
# What the frontend reads of each version; it fails on one that lacks any of them.
_SETTINGS: Final = {
    "defaultVersion": bool,
    "marName": str,
    "minWorkers": int,
    "maxWorkers": int,
    "batchSize": int,
    "maxBatchDelay": int,
}
# What it reads where it is there.
_FURTHER: Final = {"responseTimeout": int, "startupTimeout": int, "runtimeType": str, "handler": str, "traffic": dict}
# What is kept of a snapshot: the models, where they lie, and who served them.
_KEPT: Final = (KEY, "model_store", frontends.KEY)
_SHOWN: Final = 80
# Java's numbers.
_INTS: Final = range(-(2**31), 2**31)


@dataclass(frozen=True)
class Snapshot:
    """The models of a server at some time.

    Attributes:
        name: the file's, which begins with the time.
        text: JSON, as the frontend reads it.
        models: every version, by its model's name and its archive.
        versions: theirs, in the same order.
        settings: what is said of each, by the frontend's names, in the same order.
        store: the model store that it was made with; None if it is not known, or there no more.
    """

    name: str
    text: str
    models: tuple[ModelSpec, ...]
    versions: tuple[str, ...]
    settings: tuple[Mapping[str, Any], ...]
    store: Path | None = None

    @classmethod
    def parse(cls, text: str, store: str = "") -> Snapshot:
        """Parse what the frontend has written.

        Raises:
            InputError: it is not a snapshot.
        """
        try:
            document = json.loads(text)
            entries = [
                (ModelSpec(str(name), _settings(settings)["marName"]), str(version), settings)
                for name, versions in document["models"].items()
                for version, settings in versions.items()
            ]
            name = str(document.get("name") or "without a name")
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"{KEY} is none that TorchServe has written: {error}",
                hint=f"remove {KEY} from the configuration, or name the models at the start",
            ) from error
        folder = Path(store) if store and Path(store).is_dir() else None
        models, versions = tuple(entry[0] for entry in entries), tuple(entry[1] for entry in entries)
        return cls(name, text, models, versions, tuple(entry[2] for entry in entries), folder)

    def check(self, store: Path) -> None:
        """Make sure that the archives are still those of the snapshot; the frontend would stop at the first other one.

        Raises:
            InputError: an archive holds another version now.
            archive_tool.errors.ArchiveError: one cannot be read.
        """
        for spec, version in zip(self.models, self.versions, strict=True):
            with open_archive(store / spec.archive) as archive:
                found = archive.manifest.model.version if archive.manifest else FIRST_VERSION
            if found != version:
                raise InputError(
                    f"version {version} of {spec.name} cannot be restored: {spec.archive} holds version {found} now",
                    where=str(store / spec.archive),
                    hint="put that version's archive back, or name the models at the start",
                )


def _settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    there = {key: kind for key, kind in _FURTHER.items() if key in settings}
    for key, kind in (_SETTINGS | there).items():
        value = settings[key]
        if type(value) is not kind or (kind is int and value not in _INTS):
            raise TypeError(f"{key} is {repr(value)[:_SHOWN]}")
    return settings


def keep(state: StateFolder) -> None:
    """Keep the newest snapshot of the last run where the next run's logs do not take its place."""
    folder = state.logs / "config"
    if not folder.is_dir():
        return
    for path in sorted((path for path in folder.iterdir() if _FILE.fullmatch(path.name)), reverse=True):
        try:
            properties = read_properties(path)
            Snapshot.parse(properties[KEY])
        except (InputError, KeyError):
            continue  # the server was killed while it wrote it
        # Nothing else: a new run has settings of its own, and a password belongs into no further file.
        temporary = state.last_models.with_suffix(".tmp")
        write_properties(temporary, {key: properties[key] for key in _KEPT if key in properties})
        temporary.replace(state.last_models)
        return


def last(state: StateFolder) -> Snapshot | None:
    """Return the models of the last run of a server; None if it has not run.

    Raises:
        InputError: the file is damaged.
    """
    keep(state)
    if not state.last_models.exists():
        return None
    properties = read_properties(state.last_models)
    try:
        return Snapshot.parse(properties.get(KEY, ""), properties.get("model_store", ""))
    except InputError as error:
        hint = f"name the models at the start; {state.last_models} has none, and may be removed"
        raise InputError(error.message, where=str(state.last_models), hint=hint) from error


def last_frontend(state: StateFolder) -> str | None:
    """Return which frontend served the models of the last run; None if it is not known.

    Raises:
        InputError: the file is damaged.
    """
    keep(state)
    if not state.last_models.exists():
        return None
    text = read_properties(state.last_models).get(frontends.KEY, "")
    return settings.frontend(text, f"{frontends.KEY}={text} in {state.last_models}") if text else None


def chosen(
    state: StateFolder, properties: dict[str, str], *, named: bool, restore: bool, warn: Callable[[str], None]
) -> Snapshot | None:
    """Return the snapshot that a start restores, which its configuration then holds; None if there is none.

    Args:
        state: of the server.
        properties: of the start; changed.
        named: whether the command line names models; they win over a snapshot of the configuration.
        restore: whether the models of the last run are wanted; they win, too.
        warn: called if there are none, or if a snapshot is ignored.

    Raises:
        InputError: a snapshot cannot be read, or both are wanted.
    """
    if named and restore:
        raise InputError(
            "models are named, and those of the last run are to be restored", hint="ask for one of the two"
        )
    text = properties.pop(KEY, None)
    found = last(state) if restore else None
    if restore and found is None:
        warn(f"there is nothing to restore: server {state.name!r} has not run before")
    elif named and text is not None:
        warn(f"{KEY} of the configuration is not restored: the command line names models")
    if found is None and text is not None and not named:
        found = Snapshot.parse(text)
    if found is not None:
        properties[KEY] = found.text
    return found


def discard(state: StateFolder) -> None:
    """Forget the snapshots of a run that never became ready: they lack what could not be loaded."""
    shutil.rmtree(state.logs / "config", ignore_errors=True)
