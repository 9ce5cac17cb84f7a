"""Settings as the real frontend takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Sandbox
from .support import model_log

# Key stores are Java's alone; tests/serving/frontend/test_listening.py has the PEM files of the other frontend.
pytestmark = [pytest.mark.hides("torch"), pytest.mark.parametrize("frontend", ["java"])]

METRICS = """
mode: prometheus
dimensions: [&host "Hostname"]
ts_metrics: {}
model_metrics:
  counter:
    - name: OfMyOwn
      unit: Count
      dimensions: [*host]
"""


@pytest.fixture
def tls(sandbox: Sandbox) -> Sandbox:
    """Return a sandbox with a key store whose password is "right", and settings with relative paths."""
    key, chain, store = "tls/key.pem", "tls/chain.pem", "tls/store.p12"
    sandbox.file(key, "")
    request = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", chain, "-subj", "/CN=localhost")
    sandbox.run("openssl", *request).ok()
    pack = ("pkcs12", "-export", "-inkey", key, "-in", chain, "-out", store, "-passout", "pass:right")
    sandbox.run("openssl", *pack).ok()
    sandbox.file("tls/metrics.yaml", METRICS)
    sandbox.file(
        "tls/tls.properties",
        "inference_address=https://127.0.0.1:8443\n"
        "keystore=$$TLS_FOLDER$$/store.p12\n"
        "keystore_pass=$$TLS_PASSWORD$$\n"
        "metrics_config=tls/metrics.yaml\n"
        "vmargs=-Djavax.net.ssl.trustStore=tls/store.p12 -XX:ErrorFile=tls/crash.log\n"
        "job_queue_siez=7\n",
    )
    return sandbox


@pytest.mark.slow  # a server more
def test_relative_paths_begin_where_the_command_is_run(tls: Sandbox, echo: str) -> None:
    tls.build("echo", echo)
    variables = {"TLS_FOLDER": "tls", "TLS_PASSWORD": "right"}
    options = ("--model-store", tls.store, "--port", "auto", "--ts-config", "tls/tls.properties")
    started = tls.run("torchmar", "start", "echo.mar", *options, env=variables).ok()
    assert "warning: tls.properties: job_queue_siez is no setting of TorchServe" in started.err
    server = tls.server()
    assert server.curl("/predictions/echo", "-k", "-d", "x")[0] == 200
    assert (
        f"Metrics config path: {tls.root}/tls/metrics.yaml\n"
        in Path(server.record["log_folder"], "ts_log.log").read_text()
    )
    assert f"Successfully loaded {tls.root}/tls/metrics.yaml" in model_log(server)
    written = (tls.root / "state/servers/default/config.properties").read_text()
    assert f"metrics_config={tls.root}/tls/metrics.yaml" in written
    assert "right" not in written


@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        (
            {"TLS_FOLDER": "tls", "TLS_PASSWORD": "wrong"},
            6,
            ("keystore password was incorrect", "keystore_pass", "hint: correct keystore_pass"),
        ),
        ({"TLS_FOLDER": "nowhere", "TLS_PASSWORD": "right"}, 1, ("no such file: keystore=nowhere/store.p12",)),
    ],
)
def test_what_is_wrong_is_named_with_its_key(
    tls: Sandbox, variables: dict[str, str], code: int, told: tuple[str, ...]
) -> None:
    options = ("--model-store", tls.store, "--port", "auto", "--ts-config", "tls/tls.properties")
    failed = tls.run("torchmar", "start", *options, env=variables)
    assert failed.code == code
    assert all(text in failed.err for text in told)
    assert "Torchserve stopped" not in failed.err
