"""Who watches the predictions of a server, by its settings and environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Final

from serving.control.configuration.frontends import is_installed
from serving.frontend.observing import capturing
from serving.frontend.observing.watched import Watcher
from serving.frontend.settings import Settings

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN: Final = "http/protobuf"
_PACKAGES: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
INSTALL: Final = "pip install 'torchmar[otel]'"

_log = logging.getLogger(__name__)


def watchers(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Watcher]:
    """Return who watches; nobody as a rule.

    Raises:
        InputError: a setting cannot be used.
    """
    found: list[Watcher] = []
    if capture := capturing.of(settings):
        _log.warning("Requests and answers are written into %s (%s)", capture.folder, capturing.SHARE)
        found.append(capture)
    if traces_wanted(environ):
        from serving.frontend.observing.tracing import Tracing  # only where it is asked for

        found.append(Tracing())
    return found


def traces_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the environment names a receiver of traces, and they can be sent to it; the log says why not."""
    if not any(environ.get(name, "").strip() for name in _ENDPOINTS):
        return False
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environ.get("OTEL_TRACES_EXPORTER", "otlp").replace(",", " ").split()
    if exporters and "otlp" not in exporters:
        return False
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name, "").strip()), _SPOKEN).strip()
    if protocol != _SPOKEN:
        _log.warning("No traces are sent: OTLP is spoken over HTTP alone (%s), not %s", _SPOKEN, protocol)
        return False
    if not all(map(is_installed, _PACKAGES)):
        _log.warning("No traces are sent: OpenTelemetry is not installed; %s", INSTALL)
        return False
    return True
