"""What all calls have in common, with a played engine behind a real server."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.control.following.forms import TEXT, Access
from serving.frontend.apps.keys import FAILED, Keys
from serving.frontend.entrance import Sampled

from .client import SERVICES, Client, outcome
from .conftest import Reached, reached

METHODS = [method.name for service in SERVICES for method in service.methods]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_have_an_answer_or_a_status(call: Client, method: str, data: bytes) -> None:
    """Never a hang, and nothing that nobody foresaw."""
    code, text = call.outcome(method, data, timeout=20)
    assert code in ("OK", "INVALID_ARGUMENT", "INTERNAL", "NOT_FOUND"), text
    assert "its log has the reason" not in text


def test_a_message_that_is_none_is_named(call: Client) -> None:
    code, text = call.outcome("Predictions", b"\x0a\xff\xff")
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("the message is no org.pytorch.serve.grpc.inference.PredictionsRequest: ")


def test_a_fault_is_told_to_the_log_alone(call: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "serving.frontend.grpc.calls"):
        code, text = call.outcome("Predictions", model_name="echo", input={"mode": b"fail"})
    assert code == "INTERNAL"
    assert "a bug" not in text
    assert "a bug" in caplog.text
    request = call.request("StreamPredictions2", model_name="echo", sequence_id="s", input={"mode": b"fail"})
    (response,) = call.callable("StreamPredictions2")(iter([request]), timeout=60)
    assert response.status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "a bug" not in response.status.message


def test_methods_that_there_are_not(server: Reached) -> None:
    with grpc.insecure_channel(server.target) as channel:
        for path in ("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Nothing", "/x/y"):
            assert _nothing(channel, path) == "UNIMPLEMENTED"


def _nothing(channel: Any, path: str) -> str:
    return outcome(lambda: channel.unary_unary(path)(b"", timeout=60))[0]


def test_keys(tmp_path: Path) -> None:
    """Each API its own, checked before a message is read; the other's is none."""
    keys = Keys(tmp_path / "key_file.json", 60)
    with reached(tmp_path, keys=keys) as server, server.client() as call:
        right = {"inference": "ListModels", "management": "Ping"}
        for kind, others in right.items():
            bearer = [("authorization", f"Bearer {keys._keys[kind]}")]
            own = "Ping" if kind == "inference" else "ListModels"
            assert call.outcome(own, metadata=bearer)[0] == "OK"
            assert call.outcome(others, metadata=bearer) == ("PERMISSION_DENIED", FAILED)
        wrong: list[Any] = [
            None,
            [("authorization-bin", b"\xff")],
            [("authorization", keys._keys["inference"])],
            [("authorization", "Bearer ")],
        ]
        for metadata in wrong:
            assert call.outcome("ServerLive", metadata=metadata) == ("PERMISSION_DENIED", FAILED)
            code, _ = call.outcome("Predictions", b"\xff", metadata=metadata)
            assert code == "PERMISSION_DENIED"
            assert call.outcome("StreamPredictions2", b"", metadata=metadata)[0] == "PERMISSION_DENIED"
        assert server.engine.calls == []
        assert _nothing(call._channel, "/x/y") == "UNIMPLEMENTED"


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_the_access_log(tmp_path: Path, share: float) -> None:
    """Of a sample no error is left out."""
    found: list[Access] = []
    with reached(tmp_path, access=Sampled(found.append, share)) as server, server.client() as call:
        call("Ping")
        call.outcome("Predictions", model_name="nobody")
        call.outcome("Predictions", model_name="echo", input={"mode": b"wait"}, timeout=0.2)
    service = r"org\.pytorch\.serve\.grpc\.inference\.InferenceAPIsService"
    told = [
        rf'\S+ - /127\.0\.0\.1:\d+ "gRPC {service}/{method} HTTP/2\.0" {code} \d+'
        for method, code in (("Ping", 0), ("Predictions", 13), ("Predictions", 1))
        if code or share
    ]
    lines = list(map(TEXT.access, found))
    for pattern, line in zip(told, lines, strict=True):
        assert re.fullmatch(pattern, line), line
