"""The manifest's content under torchmar's own key: hashes of members, versions, inputs and outputs of the model.

TorchServe's frontend ignores unknown keys, so an archive with a record is served everywhere. Unknown keys of a record
survive reading and writing, as those of the manifest do.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from archive_tool.metadata import json_fields as read

#: Our key in the manifest.
KEY: Final = "torchmar"
#: Incremented when a reader of the present format would misunderstand a record.
FORMAT_VERSION: Final = 1

_HUGE: Final = sys.float_info.max
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class MemberRecord:
    """The required content of a member: the SHA-256 of its unpacked bytes in lower-case hex, and their number."""

    sha256: str
    size: int
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, value: object, path: str) -> MemberRecord:
        """Read the object.

        Raises:
            UnreadableArchiveError: as `Record.from_dict`.
        """
        document = _object(value, path)
        sha256 = read.text(document.get("sha256"), f"{path}.sha256")
        if not _SHA256.fullmatch(sha256):
            raise read.error(f"{path}.sha256", f"expected 64 lower-case hex digits, got {read.shown(sha256)}")
        size = read.whole_number(document.get("size"), f"{path}.size")
        return cls(sha256, size, _rest(document, "sha256", "size"))

    def to_dict(self) -> dict[str, Any]:
        """Return the object."""
        return {"sha256": self.sha256, "size": self.size} | dict(self.extra)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the argument's or the output's name.
        dtype: torch's name of the element type without ``torch.``, such as "float32"; None if not known.
        shape: sizes of the dimensions, None for one of any size; None as a whole if not known.
    """

    name: str
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, value: object, path: str) -> TensorSpec:
        """Read the object.

        Raises:
            UnreadableArchiveError: as `Record.from_dict`.
        """
        document = _object(value, path)
        shape = document.get("shape")
        return cls(
            name=read.text(document.get("name"), f"{path}.name"),
            dtype=read.optional_text(document.get("dtype"), f"{path}.dtype"),
            shape=None if shape is None else _shape(shape, f"{path}.shape"),
            extra=_rest(document, "name", "dtype", "shape"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the object; what is not known is left out."""
        shape = None if self.shape is None else list(self.shape)
        return _set({"name": self.name, "dtype": self.dtype, "shape": shape}) | dict(self.extra)


@dataclass(frozen=True)
class Sample:
    """A request in the archive, to try the model with.

    Attributes:
        input: the member that holds the request's body.
        content_type: the body's media type, such as "image/png".
        expected: the member that holds the response's body; None if any answer is accepted.
        tolerance: largest difference of a number of the response from the expected one, relative above 1 and absolute
            below; None if not stated.
    """

    input: str
    content_type: str | None = None
    expected: str | None = None
    tolerance: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, value: object, path: str) -> Sample:
        """Read the object.

        Raises:
            UnreadableArchiveError: as `Record.from_dict`.
        """
        document = _object(value, path)
        return cls(
            input=read.text(document.get("input"), f"{path}.input"),
            content_type=read.optional_text(document.get("contentType"), f"{path}.contentType"),
            expected=read.optional_text(document.get("expected"), f"{path}.expected"),
            tolerance=_tolerance(document.get("tolerance"), f"{path}.tolerance"),
            extra=_rest(document, "input", "contentType", "expected", "tolerance"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the object; fields that are not set are left out."""
        known = {"input": self.input, "contentType": self.content_type, "expected": self.expected}
        return _set(known | {"tolerance": self.tolerance}) | dict(self.extra)


@dataclass(frozen=True)
class Compiled:
    """The model, compiled ahead of time for one kind of machine; see `handlers.optimization.aot`, which reads it.

    Attributes:
        path: the member that holds it, or the folder of its members.
        torch: the version that compiled it, and that it needs.
        platform: system and processor, such as "linux-x86_64".
        device: "cpu" or "cuda".
        capability: instruction sets of the processor, or the GPU's compute capability, that the code may use.
        dtype: of the computation, such as "float32"; None if not known.
        inputs: the tensors that it takes; positional ones are called "0", "1" and so on.
    """

    path: str
    torch: str
    platform: str
    device: str
    capability: tuple[str, ...] = ()
    dtype: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, value: object) -> Compiled:
        """Read the object.

        Raises:
            UnreadableArchiveError: as `Record.from_dict`.
        """
        path = f"{KEY}.compiled"
        document = _object(value, path)
        texts = {key: read.text(document.get(key), f"{path}.{key}") for key in ("path", "torch", "platform", "device")}
        names = enumerate(read.sequence(document.get("capability"), f"{path}.capability"))
        inputs = enumerate(read.sequence(document.get("inputs"), f"{path}.inputs"))
        return cls(
            **texts,
            capability=tuple(read.text(name, f"{path}.capability[{index}]") for index, name in names),
            dtype=read.optional_text(document.get("dtype"), f"{path}.dtype"),
            inputs=tuple(TensorSpec.from_dict(item, f"{path}.inputs[{index}]") for index, item in inputs),
            extra=_rest(document, *texts, "capability", "dtype", "inputs"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the object."""
        known = {
            "path": self.path,
            "torch": self.torch,
            "platform": self.platform,
            "device": self.device,
            "capability": list(self.capability),
            "dtype": self.dtype,
            "inputs": [spec.to_dict() for spec in self.inputs],
        }
        return _set(known) | dict(self.extra)


@dataclass(frozen=True)
class Pretrained:
    """A model of Hugging Face's transformers in the archive; see `handlers.pretrained`, which reads it.

    Attributes:
        path: the folder of its members.
        task: what it is for, by the Hub's name, such as "text-classification".
        architecture: the class of transformers that it was saved from; None if that is not known.
        base_models: the models that it was made of, as its card and its adapter name them.
        remote_code: whether code in the folder runs when the model is loaded.
    """

    path: str
    task: str
    architecture: str | None = None
    base_models: tuple[str, ...] = ()
    remote_code: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, value: object) -> Pretrained:
        """Read the object.

        Raises:
            UnreadableArchiveError: as `Record.from_dict`.
        """
        path = f"{KEY}.pretrained"
        document = _object(value, path)
        names = enumerate(read.sequence(document.get("baseModels"), f"{path}.baseModels"))
        return cls(
            path=read.text(document.get("path"), f"{path}.path"),
            task=read.text(document.get("task"), f"{path}.task"),
            architecture=read.optional_text(document.get("architecture"), f"{path}.architecture"),
            base_models=tuple(read.text(name, f"{path}.baseModels[{index}]") for index, name in names),
            remote_code=read.flag(document.get("remoteCode"), f"{path}.remoteCode"),
            extra=_rest(document, "path", "task", "architecture", "baseModels", "remoteCode"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the object; fields that are not set are left out."""
        known = {
            "path": self.path,
            "task": self.task,
            "architecture": self.architecture,
            "baseModels": list(self.base_models) or None,
            "remoteCode": self.remote_code or None,
        }
        return _set(known) | dict(self.extra)


@dataclass(frozen=True)
class Record:
    """The content of our key.

    Attributes:
        format_version: of the record itself, see `FORMAT_VERSION`.
        tool_version: torchmar's version that wrote it.
        python: "major.minor" of the Python that wrote it.
        frameworks: versions of the packages that the model needs, where they were installed, by package name.
        description: what the model is for, in the author's words.
        licence: the licence of the model, preferably an SPDX expression.
        inputs, outputs: of the model; empty if not known.
        samples: requests to try it with.
        metrics: results on a test set, such as {"accuracy": 0.98}.
        compiled: the model, compiled ahead of time; None if it is not.
        pretrained: a model of transformers; None if it is another one.
        members: every member but the manifest, by name.
    """

    format_version: int = FORMAT_VERSION
    tool_version: str | None = None
    python: str | None = None
    frameworks: Mapping[str, str] = field(default_factory=dict, hash=False)
    description: str | None = None
    licence: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    samples: tuple[Sample, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    compiled: Compiled | None = None
    pretrained: Pretrained | None = None
    members: Mapping[str, MemberRecord] = field(default_factory=dict, hash=False)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, value: object) -> Record:
        """Read a record from parsed JSON.

        Raises:
            UnreadableArchiveError: a value is missing or of a wrong type; the message names its path in the manifest.
        """
        document = _object(value, KEY)
        version = read.whole_number(document.get("formatVersion"), f"{KEY}.formatVersion")
        if version != FORMAT_VERSION:
            raise read.error(f"{KEY}.formatVersion", f"expected {FORMAT_VERSION}, got {version}: a newer torchmar's")
        return cls(
            format_version=version,
            tool_version=read.optional_text(document.get("toolVersion"), f"{KEY}.toolVersion"),
            python=read.optional_text(document.get("python"), f"{KEY}.python"),
            frameworks={key: read.text(item, path) for key, item, path in _items(document, "frameworks")},
            description=read.optional_text(document.get("description"), f"{KEY}.description"),
            licence=read.optional_text(document.get("licence"), f"{KEY}.licence"),
            inputs=tuple(TensorSpec.from_dict(item, path) for item, path in _list(document, "inputs")),
            outputs=tuple(TensorSpec.from_dict(item, path) for item, path in _list(document, "outputs")),
            samples=tuple(Sample.from_dict(item, path) for item, path in _list(document, "samples")),
            metrics={key: _metric(item, path) for key, item, path in _items(document, "metrics")},
            compiled=None if document.get("compiled") is None else Compiled.from_dict(document["compiled"]),
            pretrained=None if document.get("pretrained") is None else Pretrained.from_dict(document["pretrained"]),
            members={key: MemberRecord.from_dict(item, path) for key, item, path in _items(document, "members")},
            extra=_rest(document, *_KEYS),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record in a fixed order, names sorted; fields that are not set are left out."""
        known = {
            "formatVersion": self.format_version,
            "toolVersion": self.tool_version,
            "python": self.python,
            "frameworks": dict(sorted(self.frameworks.items())) or None,
            "description": self.description,
            "licence": self.licence,
            "inputs": [spec.to_dict() for spec in self.inputs] or None,
            "outputs": [spec.to_dict() for spec in self.outputs] or None,
            "samples": [sample.to_dict() for sample in self.samples] or None,
            "metrics": dict(sorted(self.metrics.items())) or None,
            "compiled": self.compiled.to_dict() if self.compiled else None,
            "pretrained": self.pretrained.to_dict() if self.pretrained else None,
            "members": {name: self.members[name].to_dict() for name in sorted(self.members)} or None,
        }
        return _set(known) | dict(self.extra)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Find the installed versions of packages, without importing them.

    The local part is cut off: torch 2.13.0+cpu and 2.13.0+cu130 are one version, and give the same archive.
    """
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name).partition("+")[0]
    return found


def python_version() -> str:
    """Return "major.minor" of this Python, on which code in an archive depends."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


_KEYS: Final = (
    "formatVersion",
    "toolVersion",
    "python",
    "frameworks",
    "description",
    "licence",
    "inputs",
    "outputs",
    "samples",
    "metrics",
    "compiled",
    "pretrained",
    "members",
)


def _object(value: object, path: str) -> Mapping[str, Any]:
    if value is None:
        raise read.error(path, "is missing")
    return read.mapping(value, path)


def _items(document: Mapping[str, Any], key: str) -> list[tuple[str, Any, str]]:
    path = f"{KEY}.{key}"
    return [(name, item, f"{path}[{read.shown(name)}]") for name, item in read.mapping(document.get(key), path).items()]


def _list(document: Mapping[str, Any], key: str) -> list[tuple[Any, str]]:
    path = f"{KEY}.{key}"
    return [(item, f"{path}[{index}]") for index, item in enumerate(read.sequence(document.get(key), path))]


def _shape(value: object, path: str) -> tuple[int | None, ...]:
    sizes = enumerate(read.sequence(value, path))
    return tuple(None if size is None else read.whole_number(size, f"{path}[{index}]") for index, size in sizes)


def _metric(value: object, path: str) -> float:
    # JSON has no NaN, although Python writes and reads one. An integer beyond any float is no measurement either.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -_HUGE <= value <= _HUGE:
        return value
    raise read.error(path, f"expected a finite number, got {read.shown(value)}")


def _rest(document: Mapping[str, Any], *known: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in known}


def _tolerance(value: object, path: str) -> float | None:
    if value is None:
        return None
    if (found := _metric(value, path)) < 0:
        raise read.error(path, f"expected a number from 0 up, got {read.shown(value)}")
    return found


def _set(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not None}
