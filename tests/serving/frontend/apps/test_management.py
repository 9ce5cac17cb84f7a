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


@pytest.mark.parametrize(
    ("method", "target", "meant"),
    [
        ("PUT", "/models/echo?min_workers=3", "min_worker"),
        ("PUT", "/models/echo/2.0?max_workers=3&synchronous=true", "max_worker"),
        ("PUT", "/models/echo/2.0/traffic?percents=3", "percent"),
        ("PUT", "/models/echo/2.0/set-default?version=1", ""),
        ("POST", "/models?url=stream.mar&initial_worker=3", "initial_workers"),
        ("POST", "/models?url=stream.mar&batchSize=3", "batch_size"),
        ("DELETE", "/models/stream?version=1", ""),
        ("GET", "/models?limits=3", "limit"),
        ("GET", "/models/echo?customised=true", "customized"),
    ],
)
def test_played_engine_is_told_nothing_by_a_misspelt_parameter(
    server: Served, method: str, target: str, meant: str
) -> None:
    before = dict(server.engine.models)
    with server.client("management") as client:
        answer = client.request(method, target)
    assert (answer.status_code, answer.json()["type"]) == (400, "BadRequestException")
    assert "there is no parameter" in answer.json()["message"]
    assert not meant or f"did you mean {meant}?" in answer.json()["message"]
    assert server.engine.models == before
    assert not server.engine.registered
    assert not server.engine.scaled


def test_played_engine_takes_what_torchserve_documents_and_does_not_read(server: Served) -> None:
    with server.client("management") as client:
        assert client.put("/models/echo?min_worker=2&number_gpu=0&timeout=-1").status_code == 202
        assert client.delete("/models/stream?synchronous=true&timeout=5").status_code == 200
    assert server.engine.scaled == [("echo", None, 2, None, False)]


@pytest.mark.parametrize(
    ("target", "kind", "body", "told"),
    [
        # What curl -d sends.
        ("/models", "application/x-www-form-urlencoded", b'{"url": "stream.mar"}', "content-type: application/json"),
        ("/models", "application/x-www-form-urlencoded", b"url=stream.mar", "/models?url=model.mar"),
        ("/models", "", b'{"url": "stream.mar"}', "of no content type"),
        ("/models?url=stream.mar", "text/plain", b"batch_size=8", "which is text/plain"),
        ("/models?batch_size=8", "application/json", b'{"url": "stream.mar"}', "a query and a body of JSON"),
        ("/models/echo", "application/x-www-form-urlencoded", b"min_worker=3", "?min_worker=2"),
        ("/models/echo", "application/json", b'{"min_worker": 3}', "?min_worker=2"),
        ("/models/echo/2.0/traffic", "application/json", b'{"percent": 3}', "?percent=5"),
    ],
)
def test_played_engine_is_told_nothing_where_a_part_would_be_lost(
    server: Served, target: str, kind: str, body: bytes, told: str
) -> None:
    with server.client("management") as client:
        method = "PUT" if target.startswith("/models/") else "POST"
        answer = client.request(method, target, content=body, headers={"content-type": kind} if kind else {})
    assert answer.status_code == 400
    assert told in answer.json()["message"]
    assert not server.engine.registered
    assert not server.engine.scaled


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b" {}\n"])
def test_played_engine_an_empty_document_is_no_body(server: Served, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    with server.client("management") as client:
        assert client.put("/models/echo?min_worker=3", content=body, headers=headers).status_code == 202
        answer = client.post("/models?url=stream.mar&model_name=new", content=body, headers=headers)
        assert answer.status_code == 200
    assert server.engine.scaled == [("echo", None, 3, None, False)]


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


def test_played_engine_describes_no_version_for_a_list(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description looks at every worker."""
    monkeypatch.setattr(type(server.engine), "describe", lambda *_: pytest.fail("it is described"))
    with server.client("management") as client:
        assert [row["modelName"] for row in client.get("/models").json()["models"]] == ["echo", "idle", "stream"]


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
        ("PUT", "/models/echo/traffic?percent=1", 400),  # a version of that name is to be scaled
        ("PUT", "/models/echo/2.0/traffic/more?percent=1", 404),
        ("GET", "/models/echo/2.0/traffic?percent=1", 405),
        ("DELETE", "/models/echo/2.0/traffic", 405),
    ],
)
def test_played_engine_a_share_that_cannot_be_is_refused(server: Served, method: str, target: str, status: int) -> None:
    with server.client("management") as client:
        assert client.request(method, target).status_code == status
    assert all(state.share is None for state in server.engine.models.values())
