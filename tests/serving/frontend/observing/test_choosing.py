"""Who watches, by the environment; and that nothing of it is there where nobody does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.frontend.observing import choosing

AT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "wanted", "told"),
    [
        ({}, False, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False, ""),
        (AT, True, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/v1/traces"}, True, ""),
        ({**AT, "OTEL_SDK_DISABLED": "True"}, False, ""),
        ({**AT, "OTEL_TRACES_EXPORTER": "none"}, False, ""),
        ({**AT, "OTEL_TRACES_EXPORTER": "otlp,console"}, True, ""),
        ({**AT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, "over HTTP alone (http/protobuf), not grpc"),
        (
            {**AT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            True,
            "",
        ),
    ],
)
def test_traces_are_wanted(environ: dict[str, str], wanted: bool, told: str, caplog: pytest.LogCaptureFixture) -> None:
    assert choosing.traces_wanted(environ) == wanted
    assert told in caplog.text
    assert bool(told) == bool(caplog.records)


def test_without_the_extra_the_log_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(choosing, "_PACKAGES", ("no_such_package.sdk",))
    assert not choosing.traces_wanted(AT)
    assert "pip install 'torchmar[otel]'" in caplog.text


def test_nothing_is_imported_where_nobody_watches(tmp_path: Path) -> None:
    script = """
import asyncio, pathlib, sys
from serving.control.configuration.config import default_properties
from serving.frontend.assembly import Startup, assemble
from serving.frontend.local.engine import LocalEngine
from serving.frontend.settings import Place, home_of, of

async def main():
    folder = pathlib.Path(sys.argv[1])
    settings = of(default_properties(), Place(folder, home_of(None), folder, folder, folder), {})
    parts = assemble(settings, Startup())
    assert type(parts.engine) is LocalEngine, type(parts.engine)
    assert parts.apps["inference"]._engine is parts.engine

asyncio.run(main())
found = [name for name in sys.modules if name.startswith(("opentelemetry", "serving.frontend.observing.tracing"))]
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
