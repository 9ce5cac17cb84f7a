"""The envelopes of TorchServe around a handler: on its worker and on ours, under the same frontend."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .conftest import Server, usual_frontend
from .pairs import Pair, light_sandbox, servers, source, without_id
from .support import Answer, ask, at_once, pack

ENVELOPES = {
    "body": [
        ("/predictions/rows", "text", "text/plain"),
        ("/predictions/rows", '{"data": 1}', "application/json"),
        ("/predictions/rows", "raw", "application/octet-stream"),
    ],
    "json": [
        ("/predictions/rows", '{"instances": [1, 2, 3]}', "application/json"),
        ("/predictions/rows", '{"instances": [{"b64": "aGk="}, {"a": {"b64": "aGk="}, "b": [2]}]}', "application/json"),
        ("/explanations/rows", '{"instances": ["x"]}', "application/json"),
        ("/predictions/rows", '{"no": "instances"}', "application/json"),
    ],
    "kserve": [
        ("/v1/models/rows:predict", '{"instances": [[1, 2], [3, 4]]}', "application/json"),
        ("/v1/models/rows:explain", '{"instances": [[1, 2]]}', "application/json"),
        ("/predictions/rows", '{"instances": ["raw"]}', "application/octet-stream"),
        ("/v1/models/rows:predict", "no json", "application/json"),
    ],
    "kservev2": [
        ("/v2/models/rows/infer", json.dumps({"id": "mine", "inputs": [
            {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [1.5, 2, 3, 4]},
            {"name": "b", "shape": [3], "datatype": "INT64", "data": [1, 2, 3]},
        ]}), "application/json"),
        ("/v2/models/rows/infer", json.dumps({"id": "text", "inputs": [
            {"name": "a", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}), "application/octet-stream"),
        ("/v2/models/rows/explain", json.dumps({"id": "why", "inputs": [
            {"name": "a", "shape": [1], "datatype": "BOOL", "data": [True]}]}), "application/json"),
        ("/v2/models/rows/infer", '{"inputs": 1}', "application/json"),
    ],
}  # fmt: skip


# Two servers each: in every run, tests/serving/worker has them.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=ENVELOPES)
def enveloped(request: pytest.FixtureRequest, java_options: str) -> Iterator[tuple[str, Pair]]:
    """Yield two servers with the envelope; it is a setting of a whole server."""
    box = light_sandbox(java_options)
    archives = [pack(box, "rows", "rows.py", source("rows"), "batchSize: 3\nmaxBatchDelay: 300\n")]
    config = box.file("config.properties", f"service_envelope={request.param}\n")
    with servers(box, request, archives, config) as started:
        yield request.param, started


def test_envelopes(enveloped: tuple[str, Pair]) -> None:
    envelope, pair = enveloped
    for path, body, kind in ENVELOPES[envelope]:
        stock, ours = pair.both(lambda server: ask(server.inference, path, body, {"Content-Type": kind}))  # noqa: B023
        assert without_id(ours) == without_id(stock), path
        assert ours.status == (503 if '"no"' in body or "no json" in body or ": 1}" in body[:13] else 200), body


def test_batches_in_envelopes(enveloped: tuple[str, Pair]) -> None:
    """Those of one request take but the first of a batch with TorchServe's worker."""
    envelope, pair = enveloped
    kind = {"Content-Type": "application/json"}
    if envelope == "kservev2":
        tensor = {"name": "a", "shape": [1], "datatype": "INT64"}
        bodies = [json.dumps({"id": str(n), "inputs": [{**tensor, "data": [n]}]}) for n in range(3)]
    else:
        bodies = [json.dumps({"instances": [n, n]}) for n in range(3)]

    def ask_all(server: Server) -> list[Answer]:
        return at_once([lambda b=b: ask(server.inference, "/predictions/rows", b, kind) for b in bodies])

    stock, ours = pair.both(ask_all)
    assert [answer.status for answer in ours] == [200, 200, 200]
    if envelope in ("kserve", "kservev2"):
        if usual_frontend() == "java":  # the other does not hold a batch open
            assert [answer.status for answer in stock] == [503, 503, 503]
        texts = [answer.text() for answer in ours]
        if envelope == "kserve":
            assert [json.loads(text)["predictions"] for text in texts] == [[str(n)] * 2 for n in range(3)]
        else:
            assert [json.loads(text)["outputs"][0]["data"] for text in texts] == [[str(n)] for n in range(3)]
    else:
        assert ours == stock
