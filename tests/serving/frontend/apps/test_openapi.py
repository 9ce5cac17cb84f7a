"""The description of the APIs beside what they do, over a played engine."""

from __future__ import annotations

from typing import Any

import pytest

from serving.frontend.apps import openapi

from .conftest import Served

_DOCUMENTS = {
    "inference": openapi.inference_document("1"),
    "management": openapi.management_document("1"),
    "metrics": openapi.metrics_document("1"),
    "model": openapi.model_document("echo"),
    "model's management": openapi.model_management_document("echo", "1"),
}
_ROUTES = [
    (api, path, method)
    for api in ("inference", "management")
    for path, operations in _DOCUMENTS[api]["paths"].items()
    for method in operations
]


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_a_document_is_whole(name: str) -> None:
    document = _DOCUMENTS[name]
    ids: list[str] = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            ids.append(operation["operationId"])
            in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert in_path == {name for name in ("model_name", "model_version") if f"{{{name}}}" in path}
            for reference in _references(operation):
                assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    assert len(set(ids)) == len(ids)


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [one for key, inner in value.items() for one in ([inner] if key == "$ref" else _references(inner))]
    return [one for inner in value for one in _references(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize(("api", "path", "method"), _ROUTES)
def test_played_engine_every_route_of_a_document_is_there(server: Served, api: str, path: str, method: str) -> None:
    target = path.replace("{model_name}", "echo").replace("{model_version}", "2.0")
    query = "?url=stream.mar&model_name=new" if (path, method) == ("/models", "post") else "?model_name=echo"
    if path.endswith("/traffic"):
        target += "?percent=5"
    if method == "delete" and "{model_version}" not in path:
        del server.engine.models[("echo", "2.0")]  # the default version is the last to go
    with server.client(api) as client:
        answer = client.request(method.upper(), target + (query if path in ("/models", "/invocations") else ""))
    if path == "/token":
        assert answer.status_code == 404  # no key is needed here, so there is none to renew
    else:
        assert answer.status_code < 300, answer.text


@pytest.mark.parametrize("api", ["inference", "management"])
def test_played_engine_gives_the_documents(server: Served, api: str) -> None:
    with server.client(api) as client:
        document = client.get("/api-description").json()
        assert document == client.options("/").json()
        assert document["info"]["version"] == "0.12.0"
        assert document["paths"].keys() == _DOCUMENTS[api]["paths"].keys()
        target = "/predictions/echo" if api == "inference" else "/models/echo"
        assert "echo" in client.options(target).json()["info"]["title"]
