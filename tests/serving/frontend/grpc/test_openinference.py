"""The Open Inference Protocol with a played engine behind a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .client import Client
from .conftest import Reached


def test_the_server(server: Reached, call: Client) -> None:
    assert call("ServerLive").live is True
    assert call("ServerReady").ready is True
    server.engine.engine.ready = False
    assert call("ServerReady").ready is False
    server.engine.engine.ready = True
    told = call("ServerMetadata")
    assert (told.name, told.version, list(told.extensions)) == ("Torchserve", "0.12.0", ["kserve", "kubeflow"])


def test_models(call: Client) -> None:
    assert call("ModelReady", name="echo", version="2.0").ready is True
    assert call("ModelReady", name="idle").ready is False
    told = call("ModelMetadata", name="echo")
    assert (told.name, list(told.versions), told.platform) == ("echo", ["1.0", "2.0"], "pytorch")


@pytest.mark.parametrize(
    ("method", "fields", "code", "text"),
    [
        ("ModelReady", {}, "INTERNAL", "Parameter name is required.\nBadRequestException.()"),
        ("ModelReady", {"name": "n"}, "NOT_FOUND", "Model not found: n\norg.pytorch.serve.archive.model."),
        ("ModelMetadata", {}, "INTERNAL", "Parameter model_name is required.\nBadRequestException.()"),
        ("ModelMetadata", {"name": "echo", "version": "9"}, "NOT_FOUND", "Model version: 9 does not exist"),
        ("ModelInfer", {}, "INTERNAL", "Parameter model_name is required.\nBadRequestException.()"),
        ("ModelInfer", {"model_name": "n"}, "INTERNAL", "Model not found: n\norg.pytorch.serve.archive.model."),
        ("ModelInfer", {"model_name": "idle"}, "INTERNAL", 'Model "idle" has no worker'),
        (
            "ModelInfer",
            {"model_name": "echo", "raw_input_contents": [b"1234"]},
            "INVALID_ARGUMENT",
            "raw_input_contents",
        ),
        ("ModelInfer", {"model_name": "echo"}, "INTERNAL", "the handler's answer is no inference response"),
    ],
)
def test_refuses(call: Client, method: str, fields: dict[str, Any], code: str, text: str) -> None:
    found, told = call.outcome(method, **fields)
    assert found == code
    assert told.startswith(text)


def test_a_large_request(server: Reached, call: Client) -> None:
    data = [number / 2 for number in range(100_000)]
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(data)], "contents": {"fp32_contents": data}}
    call.outcome("ModelInfer", model_name="echo", inputs=[tensor])
    assert json.loads(server.engine.calls[-1].request.parameters[0].value)["inputs"][0]["data"] == data


def test_what_a_handler_gets(server: Reached, call: Client) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [0.5, -1]}}
    call.outcome("ModelInfer", model_name="echo", id="7", inputs=[tensor], timeout=50)
    asked = server.engine.calls[-1]
    (body,) = asked.request.parameters
    assert (body.name, body.content_type, asked.request.headers) == ("body", "application/json", {})
    inputs = [{"name": "x", "shape": [2], "datatype": "FP32", "data": [0.5, -1.0]}]
    assert json.loads(body.value) == {"id": "7", "model_name": "echo", "inputs": inputs}
    assert asked.deadline is not None
