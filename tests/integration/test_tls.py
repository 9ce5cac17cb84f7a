"""https of the Python frontend as a process: its certificate is renewed by SIGHUP, and a bad one changes nothing."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.serving.frontend.listening_app import free_port
from tests.serving.frontend.test_listening import certificate

from .conftest import Sandbox, Server
from .support import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.hides("torch"),
    pytest.mark.parametrize("frontend", ["python"]),
]


def shown(server: Server) -> str:
    """Return the certificate that the inference API shows."""
    place = urlsplit(server.inference)
    return ssl.get_server_certificate((place.hostname or "", place.port or 0))


def test_sighup_renews_the_certificate(sandbox: Sandbox) -> None:
    files = certificate(sandbox.root)
    lines = [f"{key}={value}" for key, value in files.items()]
    apis = ("inference", "management", "metrics")
    lines += [f"{api}_address=https://127.0.0.1:{free_port()}" for api in apis]
    config = sandbox.file("tls.properties", "\n".join(lines))
    sandbox.torchmar("start", "--ts-config", config, "--model-store", sandbox.store, "-q").ok()
    server = sandbox.server("default")
    pem, log = Path(files["certificate_file"]), Path(server.record["log_folder"], "ts_log.log")
    assert shown(server) == pem.read_text()
    place = urlsplit(server.inference)
    trusted = ssl.create_default_context(cafile=str(pem))
    assert server.pid > 1
    with (
        socket.create_connection((place.hostname, place.port), 30) as plain,
        trusted.wrap_socket(plain, server_hostname="localhost") as kept,
    ):
        certificate(sandbox.root)
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: shown(server) == pem.read_text(), "the new certificate")
        kept.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert kept.recv(100).startswith(b"HTTP/1.1 200 ")  # who is connected stays
    good = pem.read_text()
    pem.write_text("no certificate\n")
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "The certificate was not read anew: the certificate or its key" in log.read_text(), "the reason")
    assert shown(server) == good
    assert sandbox.torchmar("status").code == 0


def test_mutual_tls_is_refused_before_anything_starts(sandbox: Sandbox) -> None:
    config = sandbox.file("tls.properties", "client_ca_file=ca.pem\n")
    refused = sandbox.torchmar("start", "--ts-config", config, "--model-store", sandbox.store, "--port", "auto")
    assert refused.code == 1
    assert "client_ca_file=ca.pem: the Python frontend asks no client for a certificate (mutual TLS)" in refused.err
