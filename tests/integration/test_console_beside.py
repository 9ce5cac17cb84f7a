"""The command console: beside Java's frontend it serves the console, of the Python frontend it names the address."""

from __future__ import annotations

import signal

import httpx
import pytest

from .conftest import Server
from .support import register

pytestmark = pytest.mark.hides("torch")


@pytest.mark.parametrize("frontend", ["java"])
def test_it_stands_beside_javas_frontend(light_server: Server) -> None:
    box = light_server.sandbox
    box.build("echo", "def handle(data, context):\n    return data\n")
    register(light_server, "echo.mar", "echo", workers=0)
    process = box.popen("torchmar", "console", "--port", "auto")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        with httpx.Client(timeout=60, follow_redirects=True) as client:
            page = client.get(address)
            assert 'data-name="echo"' in page.text
            assert "echo_handler.py" in client.get(f"{address}/models/echo").text
            assert "/models/{model_name}" in client.get(f"{address}/docs").text
            # Other pages have no more of it than of the server.
            assert client.get(address, headers={"Host": "evil.example"}).status_code == 403
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not errors


@pytest.mark.parametrize("frontend", ["python"])
def test_the_python_frontend_has_its_own(light_server: Server) -> None:
    address = light_server.sandbox.torchmar("console").ok().out.strip()
    assert address == f"{light_server.management}/console"
    assert httpx.get(address, timeout=60).status_code == 200
