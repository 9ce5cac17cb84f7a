"""Service folders of MXNet Model Server, TorchServe's ancestor.

Its service code is called as TorchServe calls it: a function ``handle(data, context)``, or a class with ``initialize``
and ``handle``. Two things differ: the manifest, and that a folder was archived as a whole, with a ``signature.json``
that names the model's inputs. Its archiver turned an ONNX model into MXNet's format. Here the model stays as it is:
ONNX Runtime runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from archive_tool import files, json_text
from archive_tool.errors import BuildError
from archive_tool.metadata.record import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from archive_tool.building.inputs import Inputs
    from archive_tool.building.looked import Contents
    from archive_tool.building.report import Report
    from archive_tool.metadata.record import Record

SIGNATURE: Final = "signature.json"
#: Packages that an environment with TorchServe does not have.
_GONE: Final = {
    "mms": "write what it gave into the service itself; TorchServe's package ts has most of it",
    "mxnet": "run the model with torch, or as ONNX with onnxruntime",
    "mxnet_model_service": "run the model with torch, or as ONNX with onnxruntime",
}


@dataclass(frozen=True)
class ServiceFolder:
    """A folder named by ``--model-path``.

    Attributes:
        handler: the reference to the service, as a path.
        serialized_file: the ONNX model, if there is exactly one.
        inputs: the model's inputs according to ``signature.json``.
        warnings: parts that probably will not run.
    """

    handler: str
    serialized_file: Path | None = None
    inputs: tuple[TensorSpec, ...] = ()
    warnings: tuple[str, ...] = ()


def with_service(
    inputs: Inputs, folder: Path, record: Record, contents: Contents, report: Report
) -> tuple[Inputs, Record]:
    """Add the contents of a service folder to the inputs and to the archive's metadata.

    Raises:
        BuildError: as `read_folder`; or it cannot be read.
    """
    try:
        service = read_folder(folder, inputs.handler, contents)
    except OSError as error:
        raise BuildError(f"cannot read {folder}: {error.strerror or error}", where="--model-path") from error
    for warning in service.warnings:
        report.warning(warning)
    found = replace(
        inputs,
        handler=service.handler,
        serialized_file=inputs.serialized_file or service.serialized_file,
        extra_files=(*inputs.extra_files, f"{folder}=."),
    )
    return found, record if record.inputs else replace(record, inputs=service.inputs)


def read_folder(folder: Path, handler: str, contents: Contents) -> ServiceFolder:
    """Look at a service folder. No code of it is run.

    Args:
        folder: the one that is archived.
        handler: ``module`` or ``module:function``, with or without ``.py``, in the folder; a built-in name; a path.
        contents: the cache of files.

    Raises:
        BuildError: it is not a folder, or its signature cannot be used.
    """
    if not folder.is_dir():
        raise BuildError(f"the model path {folder} is not a directory", where="--model-path")
    module, colon, function = handler.partition(":")
    file = folder / (module if module.endswith(".py") else f"{module}.py")
    models = sorted(path for path in folder.iterdir() if path.suffix == ".onnx" and path.is_file())
    if len(models) > 1:
        raise BuildError(
            f"{folder} holds {len(models)} ONNX models: {', '.join(path.name for path in models)}",
            where="--model-path",
            hint="leave one, or give them with --extra-files and the one that is served with --serialized-file",
        )
    signature = folder / SIGNATURE
    return ServiceFolder(
        handler=f"{file}{colon}{function}" if file.is_file() else handler,
        serialized_file=models[0] if models else None,
        inputs=_signature(signature),
        warnings=tuple(_gone_packages(folder, contents)),
    )


def _signature(path: Path) -> tuple[TensorSpec, ...]:
    if not path.is_file():
        return ()
    try:
        return read_signature(files.read_regular(path, json_text.MAX_BYTES), str(path))
    except OSError as error:
        raise BuildError(f"the signature cannot be read: {error.strerror}", where=str(path)) from error


def read_signature(content: bytes, where: str) -> tuple[TensorSpec, ...]:
    """Read the inputs of a ``signature.json``: names and shapes, in which 0 is any size.

    Raises:
        BuildError: it is not JSON, or not a signature.
    """
    try:
        document = json_text.loads(content)
        return tuple(_input(item) for item in document["inputs"])
    except ValueError as error:
        raise BuildError(f"the signature is not JSON: {error}", where=where) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"the signature does not list the model's inputs: {error!r}",
            where=where,
            hint='write {"inputs": [{"data_name": "input", "data_shape": [0, 10]}], "input_type": "application/json"}',
        ) from error


def _input(item: dict[str, Any]) -> TensorSpec:
    name, shape = item["data_name"], item.get("data_shape")
    if not isinstance(name, str):
        raise TypeError(f"data_name is {name!r}")
    if shape is None:
        return TensorSpec(name)
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise TypeError(f"data_shape is {shape!r}")
    return TensorSpec(name, None, tuple(size or None for size in shape))


def _gone_packages(folder: Path, contents: Contents) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        packages = contents.packages(path)  # the checks report those that must parse
        own = {entry.stem for entry in folder.iterdir()}
        for package, hint in _GONE.items():
            if package not in own and package in packages:
                name = path.relative_to(folder).as_posix()
                yield f"{name} imports {package}, which is not there beside TorchServe ({hint})"
