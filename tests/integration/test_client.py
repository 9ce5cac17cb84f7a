"""The typed clients against the real frontend."""

from __future__ import annotations

import pytest

from serving.client import InferenceClient, ManagementClient

from .conftest import ECHO, PYTHON_FIRST, Server

pytestmark = pytest.mark.parametrize("frontend", PYTHON_FIRST)


@pytest.fixture
def server(light_server: Server) -> Server:
    light_server.sandbox.build("clients", ECHO)
    return light_server


def test_models_are_listed_over_several_pages(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.client.management.PAGE", 5)
    names = [f"m{number:03}" for number in range(13)]
    with ManagementClient.at(server.management) as client:
        for name in names:
            client.register("clients.mar", name=name, workers=0)
        assert [row.name for row in client.models()] == names
        assert client.models()[-1].url == "clients.mar"


def test_registration_options_arrive(server: Server) -> None:
    with ManagementClient.at(server.management) as client:
        client.register("clients.mar", workers=1, batch_size=4, max_batch_delay_ms=20, response_timeout_s=33)
        (found,) = client.describe("clients")
        assert (found.batch_size, found.max_batch_delay_ms, found.response_timeout_s) == (4, 20, 33)
        assert found.default
        assert found.ready_workers == 1
        assert found.workers[0].pid > 0
        assert client.describe("clients", "1.0") == (found,)
    with InferenceClient.at(server.inference) as inference:
        assert inference.ping()
        answer = inference.predict("clients", b'{"a": 1}', content_type="application/json", source="x")
        assert answer.ok
        assert answer.answer == {"version": "1.0", "body": "{'a': 1}"}
        assert answer.seconds > 0
        missing = inference.predict("nothing", b"")
        assert (missing.ok, missing.status) == (False, 404)
        assert "nothing" in (missing.error or "")
