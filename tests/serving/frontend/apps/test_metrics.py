"""The metrics API, served by uvicorn, over real HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from serving.control.configuration.config import default_properties
from serving.frontend.apps.metrics import metrics_app, sample_names
from serving.frontend.errors import BadRequestError
from serving.frontend.metering.server import ServerMeters
from serving.frontend.settings import Place, home_of, of

from .conftest import PLAIN

NOT_FOUND = {
    "code": 404,
    "type": "ResourceNotFoundException",
    "message": "Requested resource is not found, please refer to API document.",
}
NOT_ALLOWED = {
    "code": 405,
    "type": "MethodNotAllowedException",
    "message": "Requested method is not allowed, please refer to API document.",
}


@contextmanager
def served(folder: Path, **properties: str) -> Iterator[tuple[str, ServerMeters]]:
    place = Place(folder, home_of(None), folder, folder, folder)
    settings = of(default_properties() | properties, place, {})
    meters = ServerMeters(settings)
    app = metrics_app(meters, settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", meters
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ServerMeters]]:
    with served(tmp_path_factory.mktemp("metrics")) as (url, meters):
        meters.answered("mnist", "1.0", queue_s=0.1, total_s=0.2, batch=1)
        yield url, meters


def test_the_metrics(shared: tuple[str, ServerMeters]) -> None:
    answer = httpx.get(f"{shared[0]}/metrics", verify=PLAIN)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert answer.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert len(answer.headers["x-request-id"]) == 36
    assert "# TYPE ts_inference_requests_total counter\n" in answer.text
    assert 'model_name="mnist"' in answer.text


def test_a_clients_request_id_is_kept_if_it_is_one(shared: tuple[str, ServerMeters]) -> None:
    for sent, kept in (("mine", True), ("two words", True), ("x" * 200, False)):
        answer = httpx.get(f"{shared[0]}/metrics", headers={"x-request-id": sent}, verify=PLAIN)
        assert (answer.headers["x-request-id"] == sent) == kept


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/metrics/more", "/%6detrics"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_method_and_further_path_do_not_matter(shared: tuple[str, ServerMeters], path: str, method: str) -> None:
    answer = httpx.request(method, f"{shared[0]}{path}", content=b"x" if method == "POST" else None, verify=PLAIN)
    assert answer.status_code == 200
    assert answer.text.startswith("# HELP")


def test_head_has_the_headers_alone(shared: tuple[str, ServerMeters]) -> None:
    answer = httpx.head(f"{shared[0]}/metrics", verify=PLAIN)
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 1000
    assert answer.content == b""


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name[]=Requests2XX", {"Requests2XX"}),
        ("name%5B%5D=Requests2XX&name[]=Requests5XX&name=Requests4XX", {"Requests2XX", "Requests5XX"}),
        ("name[]=Requests2XX;name[]=Requests4XX", set()),
        ("name[]=torchmar_batch_size_count", {"torchmar_batch_size"}),
        ("name[]=torchmar_batch_size", set()),
        ("name[]=", set()),
        ("name[]=%FF%00", set()),
    ],
)
def test_samples_can_be_chosen(shared: tuple[str, ServerMeters], query: str, names: set[str]) -> None:
    shared[1].responded(500)
    shared[1].responded(400)
    answer = httpx.get(f"{shared[0]}/metrics?{query}", verify=PLAIN)
    assert answer.status_code == 200
    assert {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")} == names


@given(st.binary(max_size=200) | st.text("name[]=%&;+0aRequests2X", max_size=60).map(str.encode))
def test_any_query_is_answered_or_refused(query: bytes) -> None:
    """Whatever the bytes of a query, they name samples, or none, or are refused."""
    try:
        names = sample_names(query)
    except BadRequestError as error:
        assert error.message.startswith(("the query has an escape", "a field of the query has no name"))  # noqa: PT017
    else:
        assert names is None or all(isinstance(name, str) for name in names)


def test_other_parameters_choose_nothing(shared: tuple[str, ServerMeters]) -> None:
    for query in ("name=Requests2XX", "x", "", "&&"):
        assert "QueueTime" in httpx.get(f"{shared[0]}/metrics?{query}", verify=PLAIN).text


@pytest.mark.parametrize("bad", ["%zz", "%", "%a"])
def test_a_bad_escape_is_refused(shared: tuple[str, ServerMeters], bad: str) -> None:
    connection = http.client.HTTPConnection(shared[0].removeprefix("http://"))
    connection.request("GET", f"/metrics?name[]={bad}")
    answer = connection.getresponse()
    said = json.loads(answer.read())
    connection.close()
    assert answer.status == 400
    assert said == {
        "code": 400,
        "type": "BadRequestException",
        "message": f"the query has an escape that is none: '{bad}' at 7; write % as %25",
    }


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/", NOT_ALLOWED),
        ("POST", "/", NOT_ALLOWED),
        ("GET", "/ping", NOT_FOUND),
        ("GET", "/metricsx", NOT_FOUND),
        ("GET", "//metrics", NOT_FOUND),
        ("OPTIONS", "/foo", NOT_FOUND),
    ],
)
def test_other_paths(shared: tuple[str, ServerMeters], method: str, path: str, said: dict[str, object]) -> None:
    connection = http.client.HTTPConnection(shared[0].removeprefix("http://"))
    connection.request(method, path)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == said["code"]
    assert text == json.dumps(said, indent=2).encode() + b"\n"


@pytest.mark.parametrize(("method", "path"), [("OPTIONS", "/"), ("GET", "/api-description")])
def test_the_description(shared: tuple[str, ServerMeters], method: str, path: str) -> None:
    answer = httpx.request(method, f"{shared[0]}{path}", verify=PLAIN)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()["paths"]) == ["/", "/api-description", "/metrics"]


def test_its_own_answers_are_counted(tmp_path: Path) -> None:
    with served(tmp_path) as (url, _):
        for path, times in (("/metrics", 2), ("/foo", 3)):
            for _ in range(times):
                httpx.get(url + path, verify=PLAIN)
        text = httpx.get(f"{url}/metrics?name[]=Requests2XX&name[]=Requests4XX", verify=PLAIN).text
    counts = {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if not line.startswith("#")}
    assert counts == {"Requests2XX": 2, "Requests4XX": 3}


def test_in_the_log_there_is_nothing_to_show(tmp_path: Path) -> None:
    with served(tmp_path, metrics_mode="log") as (url, meters):
        meters.responded(200)
        answer = httpx.get(f"{url}/metrics", verify=PLAIN)
    assert (answer.status_code, answer.content) == (200, b"")


def test_many_ask_while_the_server_counts(shared: tuple[str, ServerMeters]) -> None:
    url, meters = shared
    answers: list[str] = []

    def ask() -> None:
        with httpx.Client(verify=PLAIN) as client:
            answers.extend(client.get(f"{url}/metrics").text for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    number = 0
    while any(thread.is_alive() for thread in threads):
        # Nothing but the loop's thread counts in a server; here another one makes versions come and go meanwhile.
        number += 1
        meters.answered("busy", str(number % 7), queue_s=0.1, total_s=0.2, batch=1)
        meters.worker_line("busy", str(number % 7), f"[METRICS]HandlerTime.ms:1|#A:{number % 50},B:x|#hostname:h,1")
        meters.forgotten("busy", str((number + 3) % 7))
    assert len(answers) == 40
    assert all(text.startswith("# HELP") and text.endswith("\n") for text in answers)
