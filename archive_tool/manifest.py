"""MAR-INF/MANIFEST.json: what TorchServe's Java frontend and its workers read first.

The keys and their order are torch-model-archiver's. Keys that we do not know survive reading and writing, because
archives of older tools (MXNet Model Server) and of newer ones carry some.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from archive_tool.errors import BuildError, UnreadableArchiveError
from archive_tool.layout import MANIFEST_NAME
from archive_tool.version import __version__

#: 1980-01-01 00:00:00 UTC, the first moment that a zip archive can express.
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


def build_time() -> int:
    """Seconds since 1970 that stand for "now" in an archive: SOURCE_DATE_EPOCH if set, else the zip epoch.

    The meaning of the variable is that of https://reproducible-builds.org/specs/source-date-epoch/.

    Raises:
        BuildError: SOURCE_DATE_EPOCH is set to something else than a number of seconds.
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
    """Write a moment as torch-model-archiver does in ``createdOn``, in UTC."""
    return time.strftime("%d/%m/%Y %H:%M:%S", time.gmtime(seconds))


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

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Model:
        """Read the object; see `Manifest.from_dict` for the errors."""
        if document.get("modelName") is None:
            raise _error("model.modelName", "is missing")
        values: dict[str, Any] = {}
        for key, attribute in _MODEL_FIELDS.items():
            value = document.get(key)
            # Java's Gson reads a number where it wants text; manifests with a version of 1.0 exist.
            if key == "modelVersion" and isinstance(value, (int, float)) and not isinstance(value, bool):
                value = str(value)
            values[attribute] = value if key == "extensions" else _text(value, f"model.{key}")
        extra = {key: value for key, value in document.items() if key not in _MODEL_FIELDS}
        return cls(**values, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """Write the object in torch-model-archiver's key order; what is not set is left out."""
        known = {key: getattr(self, attribute) for key, attribute in _MODEL_FIELDS.items()}
        return {key: value for key, value in known.items() if value is not None} | dict(self.extra)


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
            raise _error("the document", f"expected an object, got {_shown(document)}")
        model = document.get("model")
        if model is None:
            raise _error("model", "is missing")
        if not isinstance(model, Mapping):
            raise _error("model", f"expected an object, got {_shown(model)}")
        return cls(
            model=Model.from_dict(model),
            runtime=_text(document.get("runtime"), "runtime") or "python",
            created_on=_text(document.get("createdOn"), "createdOn"),
            archiver_version=_text(document.get("archiverVersion"), "archiverVersion"),
            extra={key: value for key, value in document.items() if key not in _MANIFEST_KEYS},
        )

    @classmethod
    def from_json(cls, text: bytes | str) -> Manifest:
        """Read a manifest from the bytes of its file.

        Raises:
            UnreadableArchiveError: not JSON, or not a manifest.
        """
        try:
            document = json.loads(text)
        # ValueError covers bad JSON, bad UTF-8 and numbers of absurd length.
        except (ValueError, RecursionError) as error:
            raise UnreadableArchiveError(f"the manifest is not JSON: {error}", where=MANIFEST_NAME) from error
        return cls.from_dict(document)

    def to_dict(self) -> dict[str, Any]:
        """Write the manifest in torch-model-archiver's key order; what is not set is left out."""
        known = {
            "createdOn": self.created_on,
            "runtime": self.runtime,
            "model": self.model.to_dict(),
            "archiverVersion": self.archiver_version,
        }
        return {key: value for key, value in known.items() if value is not None} | dict(self.extra)

    def to_json(self) -> bytes:
        """Write the bytes of the manifest's file."""
        return json.dumps(self.to_dict(), indent=2).encode("ascii")


def new_manifest(model: Model, *, runtime: str, seconds: int) -> Manifest:
    """Make the manifest of an archive that is built now by this version of torchmar."""
    return Manifest(model=model, runtime=runtime, created_on=format_time(seconds), archiver_version=__version__)


def _text(value: object, path: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _error(path, f"expected a string, got {_shown(value)}")


def _shown(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def _error(path: str, problem: str) -> UnreadableArchiveError:
    separator = " " if problem.startswith("is ") else ": "
    return UnreadableArchiveError(f"{path}{separator}{problem}", where=MANIFEST_NAME)
