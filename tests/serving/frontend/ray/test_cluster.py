"""What Ray Serve says of an application, as it is told on. Nothing is started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings("ignore")

FAILED = (
    "The deployment failed to start 3 times in a row. Error:\n"
    "\\x1b[36mray::0:model.initialize_and_get_metadata()\\x1b[39m (pid=1, ip=::1)\n"
    "serving.frontend.errors.ModelError: Worker died: RuntimeError: no weights (h.py:1)\n"
    "\\x1b[36mray::0:model.initialize_and_get_metadata()\\x1b[39m (pid=1, ip=::1)\n"
    '  File "h.py", line 1, in <module>'
)
PENDING = (
    "Deployment 'model' has 1 replicas that have taken more than 30s to be scheduled. Resources required for each "
    'replica: {"CPU": 3.0}, total resources available: {"CPU": 1.8}.'
)


@pytest.mark.parametrize(
    ("of_application", "of_deployment", "told"),
    [
        (
            "Failed to update the deployments ['model'].",
            FAILED,
            "Worker died: RuntimeError: no weights (h.py:1)\nTraceback (most recent call last):\n"
            '  File "h.py", line 1, in <module>',
        ),
        ("", PENDING, PENDING),
        (PENDING, PENDING, PENDING),
    ],
)
def test_why_an_application_is_as_it_is(of_application: str, of_deployment: str, told: str) -> None:
    from serving.frontend.ray.cluster import _state

    deployment: dict[str, Any] = {"replicas": [], "message": of_deployment}
    found = {"status": "DEPLOY_FAILED", "route_prefix": "/", "message": of_application}
    assert _state({**found, "deployments": {"model": deployment}}).message == told


def test_haproxys_socket_is_where_ray_has_it() -> None:
    from serving.frontend.ray import actor

    asked = "from ray.serve._private import constants; print(constants.RAY_SERVE_HAPROXY_SOCKET_PATH)"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", asked], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == actor.RAYS_SOCKET


@pytest.mark.parametrize(
    ("said", "heard"), [(b'{"/a": "a--1", "/": "front"}', True), (b'{"/a": "a--2"}', False), (b"no", False)]
)
def test_a_proxy_is_asked_for_its_routes(monkeypatch: pytest.MonkeyPatch, said: bytes, heard: bool) -> None:
    import ray

    from serving.frontend.ray import cluster

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/-/routes"
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.handle_request).start()
        options = {"host": "127.0.0.1", "port": server.server_port}
        details = {
            "http_options": options,
            "proxies": {"n": {"node_ip": "192.0.2.7"}, "other": {"node_ip": "192.0.2.8"}},
        }
        monkeypatch.setattr(cluster, "details", lambda: details)
        monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
        assert cluster.Serve().heard({"/a": "a--1"}) is heard
    # Nobody listens there any more.
    assert not cluster.Serve().heard({"/a": "a--1"})
