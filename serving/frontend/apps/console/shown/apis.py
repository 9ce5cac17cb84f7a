"""One OpenAPI document of all APIs, with the inputs, outputs and samples of each model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from archive_tool import json_text
from archive_tool.metadata.record import Record, TensorSpec
from archive_tool.version import __version__
from serving.answers import strict

#: Bytes of a sample that stands in the document; of a larger one its place alone.
MOST_SAMPLE: Final = 4096


@dataclass(frozen=True)
class Asking:
    """How a version of a model is asked.

    Attributes:
        name: of the model.
        version: of it.
        default: whether requests without a version go here.
        record: torchmar's part of the manifest; None without one.
        samples: content types and bodies of requests to try it with; of a large body its bytes' number.
    """

    name: str
    version: str
    default: bool
    record: Record | None
    samples: tuple[tuple[str, bytes | int], ...]

    #: Samples of a version in the document.
    MOST: ClassVar[int] = 3


def document_of(apis: Sequence[tuple[str, dict[str, Any]]], models: Sequence[Asking]) -> dict[str, Any]:
    """Join the documents of several APIs, each with its address, and add the models' own calls.

    A path that several have is the first one's, which is also asked where they share an address.

    Args:
        apis: addresses and OpenAPI documents, those of the inference API first.
        models: how each version is asked.
    """
    paths: dict[str, Any] = {}
    inference = [{"url": apis[0][0] if apis else ""}]
    for one in models:
        asked = _operation(one)
        paths[f"/predictions/{one.name}/{one.version}"] = {"post": asked, "servers": inference}
        if one.default:
            default = {**asked, "operationId": f"predict_{one.name}", "summary": f"Ask {one.name}."}
            paths[f"/predictions/{one.name}"] = {"post": default, "servers": inference}
    components: dict[str, Any] = {}
    for address, document in apis:
        for path, item in document.get("paths", {}).items():
            paths.setdefault(path, {**item, "servers": [{"url": address}]})
        for kind, found in document.get("components", {}).items():
            components[kind] = {**found, **components.get(kind, {})}
    info = {"title": "torchmar", "version": __version__, "description": "All APIs of this server, and its models."}
    return {"openapi": "3.0.3", "info": info, "paths": paths, "components": components}


def _operation(one: Asking) -> dict[str, Any]:
    record = one.record
    about = [record.description] if record and record.description else []
    if record and record.inputs:
        about.append("Inputs: " + "; ".join(map(_tensor, record.inputs)))
    if record and record.outputs:
        about.append("Outputs: " + "; ".join(map(_tensor, record.outputs)))
    kinds: dict[str, Any] = {}
    for number, (kind, body) in enumerate(one.samples):
        known = kinds.setdefault(kind or "application/octet-stream", {"schema": _schema(kind), "examples": {}})
        known["examples"][f"sample {number}"] = _example(kind, body)
    return {
        "operationId": f"predict_{one.name}_{one.version}",
        "tags": ["models"],
        "summary": f"Ask {one.name} {one.version}.",
        "description": "\n\n".join(about) or "The archive does not say what the model takes.",
        "x-torchmar-try": [one.name, one.version],
        "requestBody": {"content": kinds or {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        "responses": {"200": {"description": "What the model answered.", "content": {"*/*": {"schema": {}}}}},
    }


def _tensor(spec: TensorSpec) -> str:
    shape = "" if spec.shape is None else " [" + ", ".join("?" if one is None else str(one) for one in spec.shape) + "]"
    return f"{spec.name} {spec.dtype or ''}{shape}".strip()


def _schema(kind: str) -> dict[str, Any]:
    if kind == "application/json":
        return {}
    return {"type": "string"} if kind.startswith("text/") else {"type": "string", "format": "binary"}


def _example(kind: str, body: bytes | int) -> dict[str, Any]:
    if isinstance(body, int):
        return {"summary": f"{body} bytes"}
    if kind == "application/json":
        try:
            return {"value": strict(json_text.loads(body))}
        except json_text.NotJsonError:
            pass
    if kind.startswith("text/"):
        return {"value": body.decode("utf-8", "replace")}
    return {"summary": f"{len(body)} bytes, in base64", "value": base64.b64encode(body).decode()}
