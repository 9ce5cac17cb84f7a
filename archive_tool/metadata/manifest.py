"""MAR-INF/MANIFEST.json: the first file that TorchServe's Java frontend and its workers read.

The keys and their order are torch-model-archiver's. Unknown keys survive reading and writing, because archives of older
tools (MXNet Model Server) and of newer ones have some.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from archive_tool import json_text
from archive_tool.errors import BuildError, UnreadableArchiveError
from archive_tool.metadata import json_fields as read
from archive_tool.metadata.names import MANIFEST_NAME, VERSION_HINT, model_name_problem, shown_name, version_problem
from archive_tool.metadata.record import KEY, Record
from archive_tool.version import __version__

#: 1980-01-01 00:00:00 UTC, the earliest time in a zip archive.
ZIP_EPOCH: Final = 315532800
_LATEST: Final = 253402300799  # the last second of the year 9999, which strftime still writes with four digits

_MANIFEST_KEYS: Final = ("createdOn", "runtime", "model", "archiverVersion")
_MODEL_FIELDS: Final = {
    "modelName": "model_name",
    "serializedFile": "serialized_file",
    "handler": "handler",
    "modelFile": "model_file",
    "modelVersion": "model_version",
    "extensions": "extensions",
    "requirementsFile": "requirements_file",
    "configFile": "config_file",
}
#: Those that name files beside the handler, in the order in which they are reported.
_FILES: Final = ("serializedFile", "modelFile", "configFile", "requirementsFile")


def build_time() -> int:
    """Return the time of a build, in seconds since 1970: SOURCE_DATE_EPOCH if set, else the zip epoch.

    The meaning of the variable is that of https://reproducible-builds.org/specs/source-date-epoch/.

    Raises:
        BuildError: SOURCE_DATE_EPOCH is not a number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return ZIP_EPOCH
    if text.isascii() and text.isdigit() and len(text) <= len(str(_LATEST)) and int(text) <= _LATEST:
        return int(text)
    raise BuildError(
        f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds since 1970",
        where="environment variable SOURCE_DATE_EPOCH",
        hint="set it to what `git log -1 --format=%ct` prints, or unset it",
    )


def format_time(seconds: int) -> str:
    """Format a time as torch-model-archiver does in ``createdOn``, in UTC."""
    return time.strftime("%d/%m/%Y %H:%M:%S", time.gmtime(seconds))


#: The version of a model whose manifest names none.
FIRST_VERSION: Final = "1.0"


@dataclass(frozen=True)
class Model:
    """The ``model`` object of a manifest; file names are base names at the archive's root."""

    model_name: str
    handler: str | None = None
    serialized_file: str | None = None
    model_file: str | None = None
    model_version: str | None = None
    extensions: Any = None
    requirements_file: str | None = None
    config_file: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def version(self) -> str:
        """The version that a server gives it."""
        return self.model_version or FIRST_VERSION

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Model:
        """Read the object.

        Raises:
            UnreadableArchiveError: as `Manifest.from_dict`.
        """
        if document.get("modelName") is None:
            raise read.error("model.modelName", "is missing")
        values: dict[str, Any] = {}
        for key, attribute in _MODEL_FIELDS.items():
            value = document.get(key)
            # Java's Gson reads a number where it wants text; manifests with a version of 1.0 exist.
            if key == "modelVersion" and isinstance(value, (int, float)) and not isinstance(value, bool):
                value = str(value)
            values[attribute] = value if key == "extensions" else read.optional_text(value, f"model.{key}")
        _check_names(values["model_name"], values["model_version"])
        extra = {key: value for key, value in document.items() if key not in _MODEL_FIELDS}
        return cls(**values, extra=extra)

    @property
    def files(self) -> dict[str, str]:
        """The members that it names besides the handler, by the manifest's keys."""
        named = {key: getattr(self, _MODEL_FIELDS[key]) for key in _FILES}
        return {key: name for key, name in named.items() if name}

    def to_dict(self) -> dict[str, Any]:
        """Return the object in torch-model-archiver's key order; fields that are not set are left out."""
        known = {key: getattr(self, attribute) for key, attribute in _MODEL_FIELDS.items()}
        return {key: value for key, value in known.items() if value is not None} | dict(self.extra)


def _check_names(name: str, version: str | None) -> None:
    """Refuse names that `build` would not have written: such a model could be registered, but not called or removed."""
    if problem := model_name_problem(name):
        raise UnreadableArchiveError(
            f"model.modelName {shown_name(name)} {problem}",
            where=MANIFEST_NAME,
            hint="build the archive again with another --model-name",
        )
    # An empty one counts as none: TorchServe then takes 1.0.
    if version and (problem := version_problem(version)):
        raise UnreadableArchiveError(
            f"model.modelVersion {shown_name(version)} {problem}",
            where=MANIFEST_NAME,
            hint=f"build the archive again: {VERSION_HINT}",
        )


@dataclass(frozen=True)
class Manifest:
    """A whole manifest. ``created_on`` and ``archiver_version`` may be missing: Java only warns about that."""

    model: Model
    runtime: str = "python"
    created_on: str | None = None
    archiver_version: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, document: object) -> Manifest:
        """Read a manifest from parsed JSON.

        Raises:
            UnreadableArchiveError: a value is missing or of a wrong type; the message names its path.
        """
        if not isinstance(document, Mapping):
            raise read.error("the document", f"expected an object, got {read.shown(document)}")
        model = document.get("model")
        if model is None:
            raise read.error("model", "is missing")
        if not isinstance(model, Mapping):
            raise read.error("model", f"expected an object, got {read.shown(model)}")
        return cls(
            model=Model.from_dict(model),
            runtime=read.optional_text(document.get("runtime"), "runtime") or "python",
            created_on=read.optional_text(document.get("createdOn"), "createdOn"),
            archiver_version=read.optional_text(document.get("archiverVersion"), "archiverVersion"),
            extra={key: value for key, value in document.items() if key not in _MANIFEST_KEYS},
        )

    @classmethod
    def from_json(cls, text: bytes | str) -> Manifest:
        """Read a manifest from the bytes of its file.

        Raises:
            UnreadableArchiveError: not JSON, or not a manifest.
        """
        try:
            document = json_text.loads(text.encode() if isinstance(text, str) else text)
        except ValueError as error:
            raise UnreadableArchiveError(f"the manifest is not JSON: {error}", where=MANIFEST_NAME) from error
        return cls.from_dict(document)

    @property
    def record(self) -> Record | None:
        """The manifest's content under torchmar's own key; None if another tool wrote the manifest.

        Raises:
            UnreadableArchiveError: a value in it is missing or of a wrong type; the message names its path.
        """
        return Record.from_dict(self.extra[KEY]) if KEY in self.extra else None

    def with_record(self, record: Record) -> Manifest:
        """Return the manifest with this record in place of its own."""
        return replace(self, extra={**self.extra, KEY: record.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest in torch-model-archiver's key order; fields that are not set are left out."""
        known = {
            "createdOn": self.created_on,
            "runtime": self.runtime,
            "model": self.model.to_dict(),
            "archiverVersion": self.archiver_version,
        }
        return {key: value for key, value in known.items() if value is not None} | dict(self.extra)

    def to_json(self) -> bytes:
        """Return the bytes of the manifest's file."""
        return json.dumps(self.to_dict(), indent=2).encode("ascii")


def new_manifest(model: Model, *, runtime: str, seconds: int) -> Manifest:
    """Make the manifest of an archive that is built now by this version of torchmar."""
    return Manifest(model=model, runtime=runtime, created_on=format_time(seconds), archiver_version=__version__)
