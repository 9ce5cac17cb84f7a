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
    operation = _DOCUMENTS[api]["paths"][path][method]
    target = path.replace("{model_name}", "echo").replace("{model_version}", "2.0")
    query = {("/models", "post"): "?url=stream.mar&model_name=new"}.get((path, method), "")
    if path == "/invocations":
        query = "?model_name=echo"
    if path.endswith("/traffic"):
        target += "?percent=5"
    if method == "delete" and "{model_version}" not in path:
        del server.engine.models[("echo", "2.0")]  # the default version is the last to go
    with server.client(api) as client:
        answer = client.request(method.upper(), target + query)
    if path == "/token":
        assert answer.status_code == 404  # no key is needed here, so there is none to renew
    elif "requestBody" in operation and operation["requestBody"].get("required"):
        assert answer.status_code == 400  # there was none
        assert "is not JSON" in answer.json()["error"]["message"]
    else:
        assert answer.status_code < 300, answer.text


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for api, path, method in _ROUTES if api == "management" and path != "/token"]
)
def test_played_engine_a_call_knows_what_its_document_says(server: Served, path: str, method: str) -> None:
    known = [
        one["name"] for one in _DOCUMENTS["management"]["paths"][path][method]["parameters"] if one["in"] == "query"
    ]
    target = path.replace("{model_name}", "echo").replace("{model_version}", "2.0")
    with server.client("management") as client:
        for name in known:  # an empty value says nothing, but the name is looked at
            answer = client.request(method.upper(), target, params={name: ""})
            assert "there is no parameter" not in answer.text
        unknown = client.request(method.upper(), target, params={"wonder": "1"})
    if path not in ("/", "/api-description") and method != "options" and not path.startswith("/v1/"):
        assert (unknown.status_code, "there is no parameter 'wonder'" in unknown.text) == (400, True)
        assert all(name in unknown.json()["message"] for name in known)


@pytest.mark.parametrize("api", ["inference", "management"])
def test_played_engine_gives_the_documents(server: Served, api: str) -> None:
    with server.client(api) as client:
        document = client.get("/api-description").json()
        assert document == client.options("/").json()
        assert document["info"]["version"] == "0.12.0"
        assert document["paths"].keys() == _DOCUMENTS[api]["paths"].keys()
        target = "/predictions/echo" if api == "inference" else "/models/echo"
        assert "echo" in client.options(target).json()["info"]["title"]
