"""A listener for gRPC: sizes, TLS, ages of connections, the drain; with a played engine."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.frontend.grpc.server import options
from serving.frontend.listening import context, load_certificate
from tests.serving.frontend.apps.conftest import settings_of
from tests.serving.frontend.test_listening import certificate

from .client import Client
from .conftest import reached


def test_sizes(tmp_path: Path) -> None:
    with reached(tmp_path, max_request_size="100000") as server:
        wide = {"options": [("grpc.max_receive_message_length", -1)]}
        with server.client(**wide) as call:
            assert call("Predictions", model_name="echo", input={"a": b"x" * 99_000}).prediction
            code, text = call.outcome("Predictions", model_name="echo", input={"a": b"x" * 100_001})
            assert (code, "larger than max" in text) == ("RESOURCE_EXHAUSTED", True)
            # What a worker may answer is the engine's to bound; gRPC's own default, 4 MiB, is the client's.
            assert len(call("Predictions", model_name="echo", input={"mode": b"large"}).prediction) == 20_000_000


def test_tls_by_pem_files_that_may_be_renewed(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    tls = context(settings_of(tmp_path, **files))
    with reached(tmp_path, tls=tls, **files) as server:
        before = Path(files["certificate_file"]).read_bytes()

        def ask(trusted: bytes) -> str:
            with grpc.secure_channel(server.target, grpc.ssl_channel_credentials(trusted)) as channel:
                return Client(channel).outcome("Ping", timeout=10)[0]

        assert ask(before) == "OK"
        certificate(tmp_path)  # another one in the same files
        after = Path(files["certificate_file"]).read_bytes()
        assert ask(before) == "OK"  # nobody has said so yet
        load_certificate(tls, server.settings)
        server.listener.renew_certificate()
        assert ask(after) == "OK"
        assert ask(before) != "OK"
        with server.client() as call:
            assert call.outcome("Ping", timeout=5)[0] == "UNAVAILABLE"


def test_ages_of_connections(tmp_path: Path) -> None:
    keys = {"grpc_inference_max_connection_age_ms": "5000", "grpc_management_max_connection_age_grace_ms": "7"}
    settings = settings_of(tmp_path, **keys, max_request_size="11")
    of = {name: dict(options(settings, [name])) for name in ("inference", "management")}  # type: ignore[list-item]
    assert of["inference"]["grpc.max_connection_age_ms"] == 5000
    assert "grpc.max_connection_age_grace_ms" not in of["inference"]
    assert of["management"]["grpc.max_connection_age_grace_ms"] == 7
    assert of["management"]["grpc.max_receive_message_length"] == 11
    endless = settings_of(tmp_path, grpc_inference_max_connection_age_ms=str(2**63 - 1))
    assert not [name for name, _ in options(endless, ["inference"]) if "_age" in name]


def test_a_connection_that_is_too_old_is_closed_and_no_call_with_it(tmp_path: Path) -> None:
    with reached(tmp_path, grpc_inference_max_connection_age_ms="200") as server, server.client() as call:
        states: list[Any] = []
        call._channel.subscribe(states.append)
        fields: Any = {"model_name": "echo", "input": {"mode": b"sleep:0.6"}}
        assert [call("Predictions", **fields).prediction != b"" for _ in range(3)] == [True] * 3
        assert grpc.ChannelConnectivity.IDLE in states[1:]  # it was closed in between


def test_a_second_server_does_not_share_the_port(tmp_path: Path) -> None:
    with reached(tmp_path) as server:

        async def another() -> None:
            made = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
            with pytest.raises(RuntimeError, match="Failed to bind"):
                made.add_insecure_port(server.target)

        asyncio.run(another())


def test_the_end_cuts_no_call(tmp_path: Path) -> None:
    with reached(tmp_path) as server, server.client() as call:
        listener, told = server.listener, []
        assert (listener.is_open, listener.is_busy, listener.is_asked) == (True, False, False)

        def ask(model: str, method: str, mode: bytes) -> None:
            answer = call(method, model_name=model, input={"mode": mode})
            told.append(list(answer) if method == "StreamPredictions" else answer.prediction)

        threads = [threading.Thread(target=ask, args=("echo", "Predictions", b"sleep:1")) for _ in range(5)]
        threads.append(threading.Thread(target=ask, args=("stream", "StreamPredictions", b"sleep:1")))
        for thread in threads:
            thread.start()
        while len(server.engine.calls) < 6:
            time.sleep(0.01)
        assert listener.is_asked
        server.do(listener.accept_no_more())
        assert (listener.is_open, listener.is_busy) == (False, True)
        with server.client() as late:
            assert late.outcome("Ping", timeout=5)[0] == "UNAVAILABLE"
        for thread in threads:
            thread.join()
        assert len(told) == 6
        while listener.is_busy:
            time.sleep(0.01)


def test_what_does_not_end_is_cut_at_last(tmp_path: Path) -> None:
    with reached(tmp_path) as server, server.client() as call:
        pending = call.callable("Predictions").future(
            call.request("Predictions", model_name="echo", input={"mode": b"wait"}), timeout=60
        )
        while not server.engine.calls:
            time.sleep(0.01)
        server.do(server.listener.close())
        assert pending.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert server.engine.cancelled == 1
