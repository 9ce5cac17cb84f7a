"""The inference API over a played engine: what is beyond TorchServe's, and what it does with bad input."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.frontend.engine import Priority

from .conftest import Served, served


def test_played_engine_is_told_the_clients_deadline(server: Served) -> None:
    with server.client() as client:
        client.post("/predictions/echo", headers={"x-request-timeout-seconds": "2.5"})
        client.post("/predictions/echo")
    first, second = server.engine.calls
    assert second.deadline is None
    assert first.deadline is not None
    # The loop's clock is this machine's.
    assert 0 < first.deadline - time.monotonic() < 2.5


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("/predictions/echo", True),
        ("/predictions/echo/1.0/further", True),
        ("/explanations/echo", False),
        ("/invocations?model_name=echo", False),
        ("/models/echo/invoke", False),
        ("/echo/predict", False),
        ("/v1/models/echo:predict", False),
        ("/v2/models/echo/infer", False),
    ],
)
def test_played_engine_may_give_a_default_answer_to_plain_predictions_alone(
    server: Served, path: str, may: bool
) -> None:
    with server.client() as client:
        assert client.post(path, content=b"x").status_code == 200
    assert [call.may_default for call in server.engine.calls] == [may]


def test_played_engines_default_answer_counts_as_the_error_that_it_hides(server: Served) -> None:
    with server.client() as client:
        answer = client.get("/predictions/echo", headers={"x-mode": "default"})
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, "none", "text/plain")
    assert answer.headers["x-default-answer"] == "deadline"
    assert server.meters.statuses == [504]


def test_played_engine_is_told_the_priority(server: Served) -> None:
    with server.client() as client:
        for text in ("high", "normal", "LOW"):
            client.get("/predictions/echo", headers={"x-request-priority": text})
        client.get("/predictions/echo")
    found = [call.priority for call in server.engine.calls]
    assert found == [Priority.HIGH, Priority.NORMAL, Priority.LOW, Priority.NORMAL]


@pytest.mark.parametrize("value", ["", "0", "-1", "nan", "inf", "1e3", "x", "1" * 20, "0.0", "1s"])
def test_played_engine_is_not_asked_with_a_bad_deadline(server: Served, value: str) -> None:
    with server.client() as client:
        answer = client.get("/predictions/echo", headers={"x-request-timeout-seconds": value})
    assert answer.status_code == 400
    assert "x-request-timeout-seconds must be a number of seconds" in answer.json()["message"]
    assert not server.engine.calls


def test_played_engine_is_not_asked_with_a_bad_priority(server: Served) -> None:
    with server.client() as client:
        answer = client.get("/predictions/echo", headers={"x-request-priority": "urgent"})
    assert answer.status_code == 400
    assert answer.json()["message"] == "the header x-request-priority must be high, normal, low, not 'urgent'"


def test_played_engine_says_where_the_time_went(server: Served) -> None:
    with server.client() as client:
        answer = client.get("/predictions/echo")
    assert answer.headers["server-timing"] == "queue;dur=1.000, worker;dur=2.000, batch;desc=3"


@pytest.mark.parametrize("given", ["mine", "a b/c", "x" * 128])
def test_played_engine_a_clients_own_id_is_kept(server: Served, given: str) -> None:
    with server.client() as client:
        answer = client.get("/predictions/echo", headers={"x-request-id": given})
        assert client.get("/nowhere", headers={"x-request-id": given}).headers["x-request-id"] == given
    assert answer.headers["x-request-id"] == given
    assert server.engine.calls[-1].request.request_id == given


@pytest.mark.parametrize("given", ["", "x" * 129, "\xe4"])
def test_played_engine_an_id_that_is_none_is_replaced(server: Served, given: str) -> None:
    with server.client() as client:
        answer = client.get("/predictions/echo", headers={"x-request-id": given.encode("latin-1")})
    assert len(answer.headers["x-request-id"]) == 36
    assert answer.headers["x-request-id"] == server.engine.calls[-1].request.request_id


def test_played_engine_never_sees_an_id_twice_at_a_time(server: Served) -> None:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.inference}", timeout=30) as client:
            headers = {"x-request-id": "same", "x-mode": "sleep:0.3"}
            return await asyncio.gather(*(client.get("/predictions/echo", headers=headers) for _ in range(5)))

    answers = asyncio.run(ask())
    assert {answer.headers["x-request-id"] for answer in answers} == {"same"}
    ids = [call.request.request_id for call in server.engine.calls]
    assert len(set(ids)) == 5
    assert "same" in ids


def test_played_engine_a_form_of_escapes_holds_up_nobody(server: Served) -> None:
    """Read in the event loop two million of them would take seconds of everybody's."""
    slowest = 0.0
    with server.client() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        form = pool.submit(
            httpx.post,
            f"http://127.0.0.1:{server.inference}/predictions/echo",
            content=b"a=" + b"%41" * 2_000_000,
            headers=headers,
            timeout=60,
        )
        while not form.done():
            began = time.monotonic()
            client.get("/livez")
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)
        assert form.result().status_code == 200
    assert slowest < 1.0


def test_played_engine_no_client_has_the_id_that_another_request_gets(server: Served) -> None:
    """Ours count up: who sends the next one would get the answer of whom it is made for."""
    with server.client() as client:
        mine = client.get("/predictions/echo").headers["x-request-id"]
        following = f"{mine[:24]}{int(mine[24:], 16) + 1:012x}"
        answer = client.get("/predictions/echo", headers={"x-request-id": following})
        assert answer.headers["x-request-id"] == following
        client.get("/predictions/echo")
    ids = [call.request.request_id for call in server.engine.calls]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(("status", "sent"), [(200, 200), (599, 599), (600, 500), (100, 500), (-1, 500), (10**9, 500)])
def test_played_engine_every_status_can_be_sent(server: Served, status: int, sent: int) -> None:
    with server.client() as client:
        answer = client.get("/predictions/echo", headers={"x-mode": f"status:{status}"})
    assert answer.status_code == sent
    assert server.meters.statuses == [sent]


def test_played_engine_health_and_readiness(server: Served) -> None:
    with server.client() as client:
        assert client.get("/ping").json() == {"status": "Healthy"}
        assert client.get("/livez").json() == {"status": "Alive"}
        assert client.get("/readyz").status_code == 200
        assert client.get("/v2/health/ready").json() == {"ready": True}
        server.engine.healthy = server.engine.ready = False
        assert client.get("/ping").status_code == 500
        assert client.get("/ping").json() == {"status": "Unhealthy"}
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert client.get("/v2/health/ready").status_code == 503


def test_played_engine_the_only_model_of_the_start_needs_no_name(server: Served) -> None:
    state = server.engine.models[("echo", "1.0")]
    server.engine.add(replace(state, loaded_at_startup=True))
    with server.client() as client:
        assert client.get("/invocations").json()["version"] == "1.0"
        server.engine.add(replace(server.engine.models[("stream", "1.0")], loaded_at_startup=True))
        assert client.get("/invocations").status_code == 400


def test_played_engine_a_stream_arrives_as_it_is_made(server: Served) -> None:
    with server.client() as client, client.stream("GET", "/predictions/stream") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["ts_stream_next"] == "true"
        assert list(answer.iter_raw()) == [b"part0", b"part1", b"part2", b"last"]
    assert server.engine.closed == 1


def test_played_engine_many_at_a_time(server: Served) -> None:
    found: list[bool] = []

    def ask(number: int) -> None:
        with server.client() as client:
            for step in range(20):
                text = f"{number}.{step}"
                row = client.post("/predictions/echo", content=text).json()["row"]
                found.append(row == {"body": ["bytearray", text]})

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 160


_ANY = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
_PARTS = (
    "/ predictions explanations echo stream idle none 1.0 9 models invoke predict invocations v1 v2 :predict infer "
)
_PARTS += (
    "versions ready ? & = model_name % %2F %ff a token api-description all set-default limit customized=true -1 url"
)
_TARGET = st.lists(st.sampled_from(_PARTS.split()), max_size=8).map(lambda parts: "/" + "".join(parts))
_NAMES = "content-type content-encoding x-request-id x-request-timeout-seconds x-request-priority authorization origin "
_NAMES += "describe explain accept x-any"
_VALUES = "multipart/form-data;boundary=B multipart/form-data application/x-www-form-urlencoded application/json gzip "
_VALUES += "deflate 1 -1 high True http://localhost text/plain;charset=x"
_HEADERS = st.dictionaries(
    st.sampled_from(_NAMES.split()),
    st.sampled_from(_VALUES.split()) | _ANY.map(lambda text: "".join(char for char in text if char.isprintable())),
)
_BODY = st.binary(max_size=200) | st.sampled_from(
    [
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--B--\r\n',
        b"a=1&b=%ZZ",
        b'{"url": "x"}',
        b"\x1f\x8b",
    ]
)
_METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("fuzzed"), max_request_size="150") as server:
        yield server


@pytest.mark.parametrize("api", ["inference", "management"])
def test_played_engine_whatever_is_asked_the_answer_is_the_contracts_or_a_4xx(fuzzed: Served, api: str) -> None:
    client = HTTPConnection("127.0.0.1", getattr(fuzzed, api), timeout=30)

    @settings(max_examples=200)
    @given(_METHODS, _TARGET, _HEADERS, _BODY)
    def ask(method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        client.request(method, target, body, {name: value.strip() for name, value in headers.items()})
        answer = client.getresponse()
        text = answer.read()
        assert answer.status < 500 or answer.status in (501, 503), text
        if answer.status >= 400 and method != "HEAD":
            assert json.loads(text)["code"] == answer.status
        assert answer.headers["x-request-id"]

    with contextlib.closing(client):
        ask()


def test_played_engine_bad_forms_are_refused_with_a_reason(tmp_path: Path) -> None:
    with served(tmp_path) as server, server.client() as client:
        answer = client.post(
            "/predictions/echo", content=b"a=%", headers={"content-type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code == 400
        assert "write % as %25" in answer.json()["message"]
