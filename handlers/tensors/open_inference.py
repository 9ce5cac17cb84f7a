"""The Open Inference Protocol, version 2, over HTTP: JSON, and its extension for tensors as binary data.

A request is `{"id", "inputs": [{"name", "shape", "datatype", "data"}], "outputs": [...]}`. With the extension the
elements of an input follow the JSON, `parameters: {"binary_data_size": N}` replaces `data`, and the header
`Inference-Header-Content-Length` says where the JSON ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from handlers.batch.inputs import numbers_to_tensor, read_json
from handlers.errors import BadInputError
from handlers.tensors.codecs import from_elements, shaped, to_elements

if TYPE_CHECKING:
    from handlers.tensors.codecs import Body

#: The header, as HTTP/2 and `RequestContext.headers` spell it.
LENGTH_HEADER = "inference-header-content-length"
DATATYPES = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_ONLY_BINARY = ("FP16", "BF16")  # the protocol has no JSON form for them
_WANTED = '{"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}]}'
_MOST = 2**63
_WRAPPED = {"UINT32": 32, "UINT64": 64}  # with the bits of Java's signed numbers


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """A request as read.

    `inputs` are the tensors by name. `outputs` are the names of the outputs that the reply is to have, each with
    whether it is to be binary, or None where the request does not say; if there are none, the reply has all outputs.
    `binary` is what the request says for all outputs, `id` its own identifier.
    """

    inputs: Mapping[str, torch.Tensor]
    id: str | None = None
    outputs: Mapping[str, bool | None] = field(default_factory=dict)
    binary: bool | None = None


def is_request(document: Any, names: Sequence[str]) -> bool:
    """Return whether JSON is a request of this protocol; `names` are the model's inputs: one may be called 'inputs'."""
    if not isinstance(document, dict) or "inputs" not in document:
        return False
    inputs = document["inputs"]
    return "inputs" not in names or (isinstance(inputs, list) and any(isinstance(one, dict) for one in inputs))


def read_binary(body: Body, length: str) -> InferenceRequest:
    """Read a body with binary data; `length` is the header's value.

    Raises:
        BadInputError: the header or the body is wrong.
    """
    size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else -1
    if not 0 < size <= len(body):
        raise BadInputError(f"Inference-Header-Content-Length is {length[:40]!r}, and the body has {len(body)} bytes")
    return read(read_json(bytes(body[:size]), _WANTED), memoryview(body)[size:])


def read(document: Any, binary: Body = b"", *, grpc: bool = False) -> InferenceRequest:
    """Read a request.

    Args:
        binary: the bytes after the JSON.
        grpc: the frontend made the JSON of a gRPC request. Its numbers are signed, so those of UINT32 and UINT64 above
            its range come as negative ones, which such a request cannot contain; they are corrected.

    Raises:
        BadInputError: it is not a request, or one of its tensors is not what it says.
    """
    document = _object(document, "the request")
    entries = document.get("inputs")
    if not isinstance(entries, list) or not entries:
        raise BadInputError(f"'inputs' must be a list with at least one tensor: send {_WANTED}")
    inputs: dict[str, torch.Tensor] = {}
    rest = memoryview(binary)
    for index, entry in enumerate(entries):
        entry = _object(entry, f"input {index}")
        name, tensor, size = _tensor(_without_signs(entry) if grpc else entry, index, rest)
        if name in inputs:
            raise BadInputError(f"there are two inputs {name[:40]!r}")
        inputs[name], rest = tensor, rest[size:]
    if len(rest):
        raise BadInputError(f"behind the JSON there are {len(rest)} bytes more than the inputs take")
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise BadInputError("'id' must be a string")
    return InferenceRequest(
        inputs, identifier, _outputs(document.get("outputs")), _flag(document, "binary_data_output", "the request")
    )


def _without_signs(entry: dict[str, Any]) -> dict[str, Any]:
    bits, data = _WRAPPED.get(str(entry.get("datatype"))), entry.get("data")
    if bits is None or not isinstance(data, list):
        return entry
    least = -(1 << bits - 1)
    return entry | {"data": [one + (1 << bits) if type(one) is int and least <= one < 0 else one for one in data]}


def _tensor(entry: dict[str, Any], index: int, rest: memoryview) -> tuple[str, torch.Tensor, int]:
    """Return an input's name, its tensor, and how many bytes of the binary data belong to it."""
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise BadInputError(f"input {index} has no name")
    place = f"the input {name[:40]!r}"
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if datatype == "BYTES":
        raise BadInputError(f"{place} is of the datatype BYTES: the model takes numbers, not texts or files")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadInputError(f"{place} has the datatype {datatype!r:.40}: it may be {', '.join(DATATYPES)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < _MOST for size in shape):
        raise BadInputError(f"{place} has the shape {shape!r:.80}: it must be a list of sizes")
    size = _parameters(entry, place).get("binary_data_size")
    if size is None:
        return name, _from_json(entry.get("data"), datatype, shape, place), 0
    if "data" in entry:
        raise BadInputError(f"{place} has both data and binary_data_size")
    if type(size) is not int or not 0 <= size <= len(rest):
        raise BadInputError(f"{place} has the binary_data_size {size!r:.40}, and there are {len(rest)} bytes left")
    return name, from_elements(rest[:size], DATATYPES[datatype], shape, place), size


def _from_json(data: Any, datatype: str, shape: list[int], place: str) -> torch.Tensor:
    """Make a tensor of JSON, flat or nested as the shape is."""
    if datatype in _ONLY_BINARY:
        raise BadInputError(
            f"{place} is of the datatype {datatype}, which has no form in JSON: send it as binary data, with "
            "binary_data_size and the header Inference-Header-Content-Length"
        )
    if not isinstance(data, list):
        raise BadInputError(f"{place} has no data: it must be a list of numbers")
    try:
        tensor = numbers_to_tensor(data, DATATYPES[datatype])
    except BadInputError as error:
        raise BadInputError(f"{place}: {error}") from error
    count = math.prod(shape)
    if tensor.numel() != count or (tensor.dim() > 1 and list(tensor.shape) != shape):
        raise BadInputError(f"{place} has the shape {shape!r:.80}, and its data {list(tensor.shape)}")
    return shaped(tensor, shape, place)


def _outputs(given: Any) -> dict[str, bool | None]:
    if given is None:
        return {}
    found: dict[str, bool | None] = {}
    for index, entry in enumerate(given if isinstance(given, list) else [given]):
        place = f"output {index}"
        name = _object(entry, place).get("name")
        if not isinstance(name, str):
            raise BadInputError(f"{place} has no name")
        found[name] = _flag(entry, "binary_data", place)
    return found


def _parameters(entry: dict[str, Any], place: str) -> dict[str, Any]:
    found = entry.get("parameters")
    return {} if found is None else _object(found, f"'parameters' of {place}")


def _flag(entry: dict[str, Any], name: str, place: str) -> bool | None:
    found = _parameters(entry, place).get(name)
    if found is not None and not isinstance(found, bool):
        raise BadInputError(f"{name!r} of {place} must be true or false")
    return found


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInputError(f"{place} is no JSON object: send {_WANTED}")
    return value


def write(
    request: InferenceRequest, outputs: Mapping[str, torch.Tensor], head: Mapping[str, Any], *, binary: bool = False
) -> tuple[dict[str, Any], bytes]:
    """Make the reply: its JSON, and the binary data that follow it.

    In JSON, float16 and bfloat16 are sent as FP32, which holds each of their values.

    Args:
        outputs: the model's, by name.
        head: what precedes them: the model's name and version, and the request's id.
        binary: whether an output that the request says nothing about is binary.

    Raises:
        BadInputError: the request asks for an output that the model does not have.
        TypeError: the protocol lacks the dtype of an output.
    """
    for name in request.outputs:
        if name not in outputs:
            known = ", ".join(repr(one[:40]) for one in outputs)
            raise BadInputError(f"the model has no output {name[:40]!r}; it gives {known}")
    entries, parts = [], []
    for name in request.outputs or outputs:
        tensor = outputs[name]
        wish = request.outputs.get(name)
        wish = request.binary if wish is None else wish
        if binary if wish is None else wish:
            parts.append(to_elements(tensor))
            more: dict[str, Any] = {"parameters": {"binary_data_size": len(parts[-1])}}
        else:
            tensor = tensor.float() if _NAMES.get(tensor.dtype) in _ONLY_BINARY else tensor
            more = {"data": tensor.reshape(-1).tolist()}
        entries.append({"name": name, "shape": list(tensor.shape), "datatype": _datatype(name, tensor), **more})
    return {**head, "outputs": entries}, b"".join(parts)


def _datatype(name: str, tensor: torch.Tensor) -> str:
    found = _NAMES.get(tensor.dtype)
    if found is None:
        raise TypeError(f"the model gives {name!r} as {tensor.dtype}, which the protocol does not have")
    return found


def join(document: Mapping[str, Any], binary: bytes) -> tuple[bytes, int]:
    """Return the body of a reply with binary data, and the length of its JSON for the header."""
    head = json.dumps(document, separators=(",", ":")).encode()
    return head + binary, len(head)
