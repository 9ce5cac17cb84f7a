"""The management API over a played engine; its answers stand beside TorchServe's in test_recorded.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving.frontend.apps.management import _metadata
from serving.frontend.engine import Registration, WorkerState

from .conftest import Served, model, served


def test_played_engine_is_told_what_a_request_says(server: Served) -> None:
    with server.client("management") as client:
        client.post("/models?url=stream.mar&model_name=a&initial_workers=0&batch_size=8&response_timeout=9")
        client.post("/models", json={"url": "stream.mar", "model_name": "b", "synchronous": False})
        client.put("/models/echo?min_worker=2&max_worker=4&synchronous=true")
        client.put("/models/echo/2.0")
        client.put("/models/echo?model_version=2.0&min_worker=0")
    assert server.engine.registered == [
        Registration("stream.mar", "a", batch_size=8, initial_workers=0, response_timeout_s=9),
        Registration("stream.mar", "b", synchronous=False),
    ]
    assert server.engine.scaled == [
        ("echo", None, 2, 4, True),
        ("echo", "2.0", 1, None, False),
        ("echo", "2.0", 0, None, False),
    ]


def test_played_engine_all_models_page_by_page(server: Served) -> None:
    server.engine.models = {}
    for number in range(250):
        server.engine.add(model(f"m{number:03}", "1.0", f"{number}.mar", 0, default=True))
    found: list[str] = []
    with server.client("management") as client:
        page = client.get("/models").json()
        assert len(page["models"]) == 100
        while True:
            found += [row["modelName"] for row in page["models"]]
            if (token := page.get("nextPageToken")) is None:
                break
            page = client.get("/models", params={"limit": 33, "next_page_token": token}).json()
    assert found == [f"m{number:03}" for number in range(250)]


def test_played_engine_a_worker_is_described(server: Served) -> None:
    worker = WorkerState("9001", 1700000000.0429, False, -1, 12345, 3)
    server.engine.add(replace(server.engine.models[("echo", "1.0")], workers=(worker,), waiting=7, remaining=93))
    with server.client("management") as client:
        (document,) = client.get("/models/echo").json()
        assert document["workers"] == [
            {
                "id": "9001",
                "startTime": "2023-11-14T22:13:20.042Z",
                "status": "UNLOADING",
                "memoryUsage": 12345,
                "pid": -1,
                "gpu": True,
                "gpuUsage": "gpuId::3",
            }
        ]
        assert document["jobQueueStatus"] == {"remainingCapacity": 93, "pendingRequests": 7}
        assert client.get("/v1/models/echo").json() == {"name": "echo", "ready": False}


def test_played_engine_a_description_asks_the_handler(server: Served) -> None:
    with server.client("management") as client:
        (document,) = client.get("/models/echo/2.0?customized=true", headers={"x-request-id": "mine"}).json()
    assert document["customizedMetadata"] == {"described": "2.0"}
    (call,) = server.engine.calls
    assert call.request.headers["describe"] == "True"
    assert call.request.parameters == ()
    assert call.request.request_id != "mine"


@pytest.mark.parametrize(
    ("body", "metadata"),
    [
        (b"", None),
        (b"null", None),
        (b'{"a": [1]}', {"a": [1]}),
        (b"[1]", {}),
        (b"{nope", {}),
        (b"\xff\xfe\x00", {}),
        (b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", {}),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", {}),
    ],
)
def test_what_a_handler_says_of_its_model(body: bytes, metadata: object) -> None:
    found = _metadata(body)
    assert found == metadata or (len(body) == 1807 and found is not None)


def test_played_engine_is_not_asked_to_change_models_where_the_api_is_off(tmp_path: Path) -> None:
    with served(tmp_path, enable_model_api="false") as server, server.client("management") as client:
        for method, target in (("POST", "/models?url=stream.mar&model_name=x"), ("DELETE", "/models/stream")):
            answer = client.request(method, target)
            assert answer.status_code == 405
            assert answer.json()["type"] == "MethodNotAllowedException"
        assert not server.engine.registered
        assert ("stream", "1.0") in server.engine.models
        assert client.put("/models/echo?min_worker=2").status_code == 202


def test_a_message_can_hold_any_text(server: Served) -> None:
    with server.client("management") as client:
        answer = client.post(
            "/models", content=b'{"url": "\\ud800\\u0000.mar"}', headers={"content-type": "application/json"}
        )
    assert answer.status_code == 404
    assert answer.json()["message"] == "Model not found at: \ud800\x00.mar"


def test_played_engine_a_share_is_given_described_and_listed(server: Served) -> None:
    with server.client("management") as client:
        rows = client.get("/models").json()["models"]
        answer = client.put("/models/echo/2.0/traffic?percent=5&sticky_header=X-User")
        assert (answer.status_code, answer.json()) == (200, {"status": "5 %"})
        told = {"percent": 5, "shadow": False, "stickyHeaders": ["x-user"]}
        default, canary = client.get("/models/echo/all").json()
        assert "traffic" not in default
        assert canary["traffic"] == told
        (echo,) = (row for row in client.get("/models").json()["models"] if row["modelName"] == "echo")
        assert echo["traffic"] == {"2.0": told}
        client.put("/models/echo/2.0/traffic?percent=0")
        assert client.get("/models").json()["models"] == rows
        assert server.engine.scaled == []


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("PUT", "/models/echo/2.0/traffic", 400),
        ("PUT", "/models/echo/2.0/traffic?percent=101", 400),
        ("PUT", "/models/echo/7.0/traffic?percent=1", 404),
        ("PUT", "/models/nothing/2.0/traffic?percent=1", 404),
        ("PUT", "/models/echo/traffic?percent=1", 404),  # a version of that name is to be scaled
        ("PUT", "/models/echo/2.0/traffic/more?percent=1", 404),
        ("GET", "/models/echo/2.0/traffic?percent=1", 405),
        ("DELETE", "/models/echo/2.0/traffic", 405),
    ],
)
def test_played_engine_a_share_that_cannot_be_is_refused(server: Served, method: str, target: str, status: int) -> None:
    with server.client("management") as client:
        assert client.request(method, target).status_code == status
    assert all(state.share is None for state in server.engine.models.values())
