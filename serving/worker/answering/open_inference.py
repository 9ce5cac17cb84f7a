"""Answers to gRPC's ModelInfer of the Open Inference Protocol, in the form that the frontend can read.

The frontend makes a message of every answer to such a request. What is not a whole inference response in JSON, an error
among them, ends the worker with all that wait for it (``GRPCJob`` reads id, model_name, model_version and outputs
without looking whether they are there). Only a reply with one answer can tell an error by its code.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from serving.protocol import PredictionItem, Request

_KEYS = ("id", "model_name", "model_version", "outputs")


def is_model_infer(request: Request) -> bool:
    """Return whether a request came so: no other without headers has a content type."""
    if not request.is_grpc or len(request.parameters) != 1:
        return False
    (parameter,) = request.parameters
    return parameter.name == "body" and parameter.content_type == "application/json"


def problem(request: Request, item: PredictionItem) -> str | None:
    """Return what the frontend could not read in an answer; None if it can, or need not.

    Only the names are looked for: the answer may be large, and it is written by a handler that knows the protocol.
    """
    if not is_model_infer(request):
        return None
    if item.status >= 400:
        return message_of(item)
    body = bytes(item.body)
    missing = [name for name in _KEYS if f'"{name}"'.encode() not in body]
    if not missing:
        return None
    return (
        f"the handler's answer is no inference response of the Open Inference Protocol: it lacks {', '.join(missing)}"
    )


def readable(request: Request, item: PredictionItem) -> PredictionItem:
    """Return an answer as it is or, if the frontend could not read it, one whose only output, ``error``, says why."""
    text = problem(request, item)
    if text is None:
        return item
    asked = _asked(request)
    error = {"name": "error", "datatype": "BYTES", "shape": [1], "data": [text]}
    content = {
        "id": str(asked.get("id") or ""),
        "model_name": str(asked.get("model_name") or ""),
        "model_version": str(asked.get("model_version") or ""),
        "outputs": [error],
    }
    return replace(item, body=json.dumps(content).encode(), content_type="application/json")


def message_of(item: PredictionItem) -> str:
    """Return the text of an answer that is an error."""
    text = bytes(item.body).decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return str(content["message"]) if isinstance(content, dict) and "message" in content else text


def _asked(request: Request) -> dict[str, Any]:
    try:
        content = json.loads(bytes(request.parameters[0].value))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
