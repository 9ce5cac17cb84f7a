"""The management API with a played engine behind a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.frontend.engine import Registration

from .client import Client
from .conftest import Reached, reached


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[tuple[Reached, Client]]:
    with reached(tmp_path) as server, server.client() as call:
        yield server, call


def test_lists(call: Client) -> None:
    """Without a limit there are models in it, other than in TorchServe."""

    def models(**fields: int) -> tuple[list[str], str | None]:
        document = json.loads(call("ListModels", **fields).msg)
        return [one["modelName"] for one in document["models"]], document.get("nextPageToken")

    assert models() == (["echo", "idle", "stream"], None)
    assert models(limit=-5, next_page_token=-5) == (["echo", "idle", "stream"], None)
    assert models(limit=2) == (["echo", "idle"], "2")
    assert models(limit=2, next_page_token=2) == (["stream"], None)


def test_describes(call: Client) -> None:
    def versions(**fields: Any) -> list[str]:
        document = json.loads(call("DescribeModel", **fields).msg)
        return [one["modelVersion"] for one in document]

    assert versions(model_name="echo") == ["1.0"]
    assert versions(model_name="echo", model_version="2.0") == ["2.0"]
    assert versions(model_name="echo", model_version="all", customized=True) == ["1.0", "2.0"]
    (found,) = json.loads(call("DescribeModel", model_name="echo", customized=True).msg)
    assert found["customizedMetadata"] == {"described": "1.0"}
    assert not call("DescribeModel", model_name="echo").msg.endswith("\n")
    for customized, code in ((False, "NOT_FOUND"), (True, "INTERNAL")):
        assert call.outcome("DescribeModel", model_name="nobody", customized=customized)[0] == code
    code, text = call.outcome("DescribeModel", model_name="idle", customized=True)
    assert (code, "no worker to serve describe request" in text) == ("INTERNAL", True)


def test_registers(managed: tuple[Reached, Client]) -> None:
    server, call = managed
    assert call("RegisterModel", url="stream.mar", model_name="new").msg == "Processing worker updates..."
    # What is 0 or below means the default, and a flag that is not set that one does not wait.
    assert server.engine.registered == [Registration("stream.mar", model_name="new", synchronous=False)]
    everything: dict[str, Any] = {"batch_size": 2, "handler": "h.py", "initial_workers": 3, "max_batch_delay": 4}
    everything |= {"model_name": "other", "response_timeout": 5, "runtime": "python", "synchronous": True}
    everything |= {"url": "stream.mar", "s3_sse_kms": True, "startup_timeout": 6}
    text = 'Model "other" Version: 1.0 registered with 3 initial workers'
    assert call("RegisterModel", **everything).msg == text
    names = {"max_batch_delay": "max_batch_delay_ms"}
    names |= {"response_timeout": "response_timeout_s", "startup_timeout": "startup_timeout_s"}
    assert server.engine.registered[-1] == Registration(**{names.get(key, key): one for key, one in everything.items()})
    call("RegisterModel", url="stream.mar", model_name="third", batch_size=-1, initial_workers=-1)
    assert server.engine.registered[-1] == Registration("stream.mar", model_name="third", synchronous=False)


@pytest.mark.parametrize(
    ("method", "fields", "code", "text"),
    [
        ("RegisterModel", {}, "INVALID_ARGUMENT", "Parameter url is required."),
        ("RegisterModel", {"url": "x.mar"}, "NOT_FOUND", "Model not found at: x.mar"),
        ("RegisterModel", {"url": "../x.mar"}, "NOT_FOUND", "Relative path is not allowed in url: ../x.mar"),
        ("RegisterModel", {"url": "x", "runtime": "cobol"}, "INVALID_ARGUMENT", "Invalid RuntimeType value: cobol"),
        ("RegisterModel", {"url": "stream.mar"}, "ABORTED", "Model version 1.0 is already registered"),
        ("ScaleWorker", {}, "NOT_FOUND", "Model not found: "),
        ("ScaleWorker", {"model_name": "echo", "min_worker": 2, "max_worker": 1}, "INVALID_ARGUMENT", "max_worker"),
        ("SetDefault", {"model_name": "nobody"}, "NOT_FOUND", "Model not found: nobody"),
        ("SetDefault", {"model_name": "echo"}, "NOT_FOUND", "Model version  does not exist for model echo"),
        ("UnregisterModel", {}, "INVALID_ARGUMENT", "Parameter model_name is required."),
        ("UnregisterModel", {"model_name": "nobody"}, "NOT_FOUND", "Model not found: nobody"),
        ("UnregisterModel", {"model_name": "echo"}, "PERMISSION_DENIED", "Cannot remove default version"),
    ],
)
def test_refuses(call: Client, method: str, fields: dict[str, Any], code: str, text: str) -> None:
    found, told = call.outcome(method, **fields)
    assert found == code
    assert told.startswith(text)
    assert told.splitlines()[1].startswith("org.pytorch.serve.")


def test_changes(managed: tuple[Reached, Client]) -> None:
    server, call = managed
    assert call("ScaleWorker", model_name="echo", synchronous=True).msg == "Workers scaled to 1 for model: echo"
    call("ScaleWorker", model_name="echo", model_version="2.0", min_worker=2, max_worker=3)
    assert server.engine.scaled == [("echo", None, 1, None, True), ("echo", "2.0", 2, 3, False)]
    told = call("SetDefault", model_name="echo", model_version="2.0").msg
    assert told == 'Default version successfully updated for model "echo" to "2.0"'
    assert call("UnregisterModel", model_name="echo", model_version="1.0").msg == 'Model "echo" unregistered'
    assert [state.version for state in server.engine.describe("echo", "all")] == ["2.0"]


def test_the_model_api_is_off_by_default(tmp_path: Path) -> None:
    with reached(tmp_path, enable_model_api="false") as server, server.client() as call:
        for method in ("RegisterModel", "UnregisterModel"):
            text = "Model API disabled\norg.pytorch.serve.archive.model.ModelException"
            assert call.outcome(method) == ("PERMISSION_DENIED", text)
        assert call("ScaleWorker", model_name="echo").msg  # as over HTTP
        assert (server.engine.registered, len(server.engine.models)) == ([], 4)
