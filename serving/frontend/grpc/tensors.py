"""Tensors of the Open Inference Protocol: from gRPC's message to the JSON that handlers read, and back."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from serving.frontend.errors import InternalError
from serving.frontend.grpc.messages import ModelInferResponse

#: The field of a tensor's contents, by its datatype.
FIELDS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
# Elements that are written at once: meanwhile no other thread of Python runs.
_PIECE: Final = 4096


def request_body(request: Any) -> bytes:
    """Write a request as JSON; bytes are in base64.

    A tensor of another datatype has no data there, as in TorchServe.
    """
    inputs = ", ".join(map(_written, request.inputs))
    head = json.dumps({"id": request.id, "model_name": request.model_name})
    return f'{head[:-1]}, "inputs": [{inputs}]}}'.encode()


def _written(tensor: Any) -> str:
    head = json.dumps({"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype})
    field = FIELDS.get(tensor.datatype)
    if field is None:
        return head
    elements = getattr(tensor.contents, field)
    pieces = (_listed(elements[at : at + _PIECE], tensor.datatype) for at in range(0, len(elements), _PIECE))
    return f'{head[:-1]}, "data": [{", ".join(pieces)}]}}'


def _listed(elements: Any, datatype: str) -> str:
    data = [base64.b64encode(one).decode() for one in elements] if datatype == "BYTES" else list(elements)
    return json.dumps(data)[1:-1]


def response_of(body: bytes | bytearray) -> Any:
    """Read the answer of a handler.

    Raises:
        InternalError: it is no response of the protocol.
    """
    try:
        document = json.loads(body)
        response = ModelInferResponse(
            id=document["id"], model_name=document["model_name"], model_version=document["model_version"]
        )
        for entry in document["outputs"]:
            tensor = response.outputs.add(name=entry["name"], datatype=entry["datatype"], shape=entry["shape"])
            if field := FIELDS.get(tensor.datatype):
                getattr(tensor.contents, field).extend(_elements(entry["data"], tensor.datatype))
    except KeyError as error:
        raise _unreadable(f"it lacks {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(str(error)) from error
    return response


def _elements(data: Any, datatype: str) -> Any:
    """Return a tensor's data; the elements of BYTES are JSON, as TorchServe sends them: texts in quotation marks."""
    if datatype == "BYTES":
        return [json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") for one in data]
    return data


def _unreadable(why: str) -> InternalError:
    return InternalError(f"the handler's answer is no inference response of the Open Inference Protocol: {why}")
