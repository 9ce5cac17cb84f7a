"""The Open Inference Protocol's paths, over a played engine."""

from __future__ import annotations

import pytest

from serving.frontend.apps.openinference import Target, target_of

from .conftest import Served


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", Target("server")),
        ("health/live", Target("live")),
        ("health/ready", Target("ready")),
        ("models/m", Target("metadata", "m")),
        ("models/m/versions/1.0", Target("metadata", "m", "1.0")),
        ("models/m/ready", Target("model-ready", "m")),
        ("models/m/versions/1.0/ready", Target("model-ready", "m", "1.0")),
        ("models/m/infer", Target("infer", "m")),
        ("models/m:x/explain", Target("explain", "m")),
        ("models/m/versions/1.0/infer", Target("infer", "m", "1.0")),
        ("health", None),
        ("health/other", None),
        ("models", None),
        ("models/m/other", None),
        ("models/m/versions", None),
        ("models/m/versions/1.0/infer/more", None),
    ],
)
def test_paths(path: str, target: Target | None) -> None:
    assert target_of(path.split("/") if path else []) == target


def test_played_engine_metadata_readiness_and_versions(server: Served) -> None:
    with server.client() as client:
        assert client.get("/v2").json()["version"] == "0.12.0"
        assert client.get("/v2/models/echo").json() == {
            "name": "echo",
            "versions": ["1.0", "2.0"],
            "platform": "pytorch",
            "inputs": [],
            "outputs": [],
        }
        assert client.get("/v2/models/idle/ready").status_code == 503
        assert client.get("/v2/models/idle/ready").json() == {"name": "idle", "ready": False}
        assert client.get("/v2/models/none").status_code == 404
        assert client.get("/v2/models/echo/versions/9/ready").json()["type"] == "ModelVersionNotFoundException"
        assert client.post("/v2/models/echo/versions/2.0/infer", json={"inputs": []}).json()["version"] == "2.0"
        assert client.post("/v2/models/echo/explain", json={}).json()["headers"]["explain"] == "True"
