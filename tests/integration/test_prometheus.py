"""The real Prometheus scrapes a server, and answers every expression of the dashboard and of the alerts."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from serving.control.configuration.ports import choose_free
from tests.serving.frontend.metering.expressions import alerts, as_number, panels

from .conftest import Sandbox, Server
from .support import PATIENCE_S, predict

pytestmark = [
    pytest.mark.hides("torch"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]

HANDLER = """
def handle(data, context):
    if data:
        context.metrics.add_time("HandlerTime", 1.5, None, "ms")
    return [b"answer"] * len(data or ())
"""


@contextlib.contextmanager
def prometheus(box: Sandbox, server: Server) -> Iterator[str]:
    """Run Prometheus, which scrapes a server; its address."""
    (port,) = choose_free("127.0.0.1", 1)
    target = urllib.parse.urlsplit(str(server.record["metrics"])).netloc
    job = {"job_name": "torchmar", "static_configs": [{"targets": [target]}]}
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
    options = {
        "config.file": box.file("prometheus.yml", json.dumps(config)),
        "storage.tsdb.path": box.root / "prometheus",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    with (box.root / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", *(f"--{name}={value}" for name, value in options.items())], stdout=log, stderr=log
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def asked(address: str, expression: str) -> list[Any]:
    """Return the series that Prometheus has for an expression."""
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{address}/api/v1/query?{query}", timeout=30) as reply:
        found: list[Any] = json.load(reply)["data"]["result"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("frontend", ["python"])
def test_every_expression_has_a_series(sandbox: Sandbox) -> None:
    sandbox.build("mnist", HANDLER)
    server = sandbox.start("mnist.mar")
    wanted = panels() | {name: as_number(expression) for name, expression in alerts().items()}
    with prometheus(sandbox, server) as address:
        deadline = time.monotonic() + PATIENCE_S
        missing = dict(wanted)
        # A rate takes two scrapes, and the machine's metrics come once a minute, first at the start.
        while missing and time.monotonic() < deadline:
            assert predict(server, "mnist", "1").body == b"answer"
            time.sleep(0.5)
            with contextlib.suppress(OSError):  # it is just starting
                missing = {name: text for name, text in wanted.items() if not asked(address, text)}
        log = (sandbox.root / "prometheus.log").read_text()
        assert not missing, f"{missing}\n{log[-4000:]}"
        (status,) = [one for one in asked(address, "torchmar_requests_total") if one["metric"]["status"] == "2xx"]
        assert float(status["value"][1]) >= 2
