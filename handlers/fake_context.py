"""A context for tests of handlers: what the worker passes with every call, without a worker."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Request:
    """A request for a test: its parameters by name, and its headers.

    As from the worker, the value of a parameter is a bytearray, or a str or parsed JSON if a content type said so.
    `deadline` is when its client has given up, on the clock of `time.monotonic`; `attempt` is more than 1 where workers
    died that had it before.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    attempt: int = 1

    @classmethod
    def of(cls, body: Any) -> Request:
        """Make a request of a body: bytes without a content type, a str as text, anything else as JSON.

        A `Request` stays as it is.
        """
        if isinstance(body, Request):
            return body
        if isinstance(body, bytes | bytearray | memoryview):
            return cls({"body": bytes(body)}, {})
        kind = "text/plain" if isinstance(body, str) else "application/json"
        return cls({"body": body}, {"content-type": kind})

    def row(self) -> dict[str, Any]:
        """Return the row that the handler gets, a new copy for each call."""
        return {name: _copy(value) for name, value in self.parameters.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return bytearray(value)
    return json.loads(json.dumps(value)) if isinstance(value, dict | list) else value


class FakeProcessor:
    """The headers of one request, its `deadline` and `attempt`, and the status and headers of its reply."""

    def __init__(self, request_header: Mapping[str, Any], deadline: float | None = None, attempt: int = 1) -> None:
        self.deadline = deadline
        self.attempt = attempt
        self._status: tuple[int, str | None] = (200, None)
        self._response: dict[str, str] = {}
        self._request = dict(request_header)

    def get_request_property(self, key: str) -> Any:
        """Return a header of the request; the name is case-sensitive."""
        return self._request.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        """Return all headers of the request."""
        return self._request

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the reply's status."""
        self._status = (code, reason_phrase)

    def get_response_status_code(self) -> int:
        """Return the reply's status."""
        return self._status[0]

    def get_response_status_phrase(self) -> str | None:
        """Return the phrase of the reply's status."""
        return self._status[1]

    def add_response_property(self, key: str, value: str) -> None:
        """Set a header of the reply."""
        self._response[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """Return the headers of the reply."""
        return self._response

    def get_response_header(self, key: str) -> str | None:
        """Return one header of the reply."""
        return self._response.get(key)


@dataclass(frozen=True)
class Metric:
    """A metric that a handler has recorded; `kind` is the method's name without `add_`."""

    kind: str
    name: str
    value: float
    unit: str = ""


class FakeMetrics:
    """A recorder of metrics, in order, in `recorded`."""

    def __init__(self) -> None:
        self.recorded: list[Metric] = []
        self.request_ids: Any = None
        self.model_name: str | None = None

    def add_metric(
        self, name: str, value: float, unit: str, idx: Any = None, dimensions: Any = (), metric_type: Any = None
    ) -> None:
        """Record a metric."""
        self._add("metric", name, value, unit, idx, dimensions, metric_type)

    def add_counter(self, name: str, value: float, idx: Any = None, dimensions: Any = ()) -> None:
        """Record a counter."""
        self._add("counter", name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: Any = None,
        unit: str = "ms",
        dimensions: Any = (),
        metric_type: Any = None,
    ) -> None:
        """Record a time."""
        self._add("time", name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: Any = None,
        unit: str = "MB",
        dimensions: Any = (),
        metric_type: Any = None,
    ) -> None:
        """Record a size."""
        self._add("size", name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self, name: str, value: float, idx: Any = None, dimensions: Any = (), metric_type: Any = None
    ) -> None:
        """Record a percentage."""
        self._add("percent", name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: Any, dimensions: Any = ()) -> None:
        """Record an error."""
        self._add("error", name, value, "", dimensions)

    def _add(self, kind: str, name: str, value: Any, unit: str, *_: Any) -> None:
        self.recorded.append(Metric(kind, name, value, unit))


class FakeContext:
    """The worker's context, with the attributes and methods of TorchServe's.

    `folder` is the model's; its manifest is read if `manifest` is not given. `config` is model-config.yaml. `requests`
    are those of the batch; `show` replaces them, as the worker does for every batch.
    """

    def __init__(
        self,
        folder: str | Path = "",
        *,
        model_name: str = "model",
        manifest: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        batch_size: int = 1,
        gpu_id: int | None = None,
        requests: Sequence[Any] = (),
    ) -> None:
        self.model_name = model_name
        self.manifest: dict[str, Any] | None = manifest if manifest is not None else _manifest(Path(folder))
        self.model_yaml_config: dict[str, Any] | None = config if config is not None else {}
        self._system_properties: dict[str, Any] = {
            "model_dir": str(folder),
            "gpu_id": gpu_id,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": "0.12.0",
            "limit_max_image_pixels": True,
        }
        self.metrics: Any = FakeMetrics()
        self.request_ids: dict[int, str] | None = None
        self.request_processor: Any = None
        self.stopping_criteria: Any = None
        self.cl_socket: Any = None
        self.header_key_sequence_id = os.getenv("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        self.header_key_sequence_start = os.getenv("TS_REQUEST_SEQUENCE_START", "ts_request_sequence_start")
        self.header_key_sequence_end = os.getenv("TS_REQUEST_SEQUENCE_END", "ts_request_sequence_end")
        if requests:
            self.show(requests)

    def show(self, requests: Sequence[Any]) -> list[dict[str, Any]]:
        """Show other requests, each a body or a `Request`; return the rows for `handle`."""
        found = [Request.of(request) for request in requests]
        self.request_ids = {index: f"request-{index}" for index in range(len(found))}
        self.request_processor = [FakeProcessor(one.headers, one.deadline, one.attempt) for one in found]
        self.metrics.request_ids = self.request_ids
        return [request.row() for request in found]

    torchmar_parts: list[tuple[str, float, float]] | None = None
    """Where handlers note when each part of their work began and ended, for traces; None: nobody asks."""

    @property
    def deadline(self) -> float | None:
        """When nobody waits for the batch any more: the latest of its requests; None if one has none."""
        found = [one.deadline for one in self.request_processor or ()]
        return max(found) if found and None not in found else None

    @property
    def attempt(self) -> int:
        """The highest of its requests' attempts."""
        return max((one.attempt for one in self.request_processor or ()), default=1)

    def get_deadline(self, idx: int = 0) -> float | None:
        """Return when the client of a request has given up."""
        deadline: float | None = self.request_processor[idx].deadline
        return deadline

    def get_attempt(self, idx: int = 0) -> int:
        """Return which try of a request it is."""
        attempt: int = self.request_processor[idx].attempt
        return attempt

    @property
    def trace(self) -> str | None:
        """`traceparent` of the first request of the batch that has one."""
        return next(filter(None, map(self.get_trace, range(len(self.request_processor or ())))), None)

    def get_trace(self, idx: int = 0) -> str | None:
        """Return `traceparent` of a request, as its client has sent it."""
        headers = self.request_processor[idx].get_request_properties()
        return next((text for name, text in headers.items() if name.lower() == "traceparent"), None)

    @property
    def system_properties(self) -> dict[str, Any]:
        """`model_dir`, `gpu_id`, `batch_size`, `server_name`, `server_version`, `limit_max_image_pixels`."""
        return self._system_properties

    def get_request_id(self, idx: int = 0) -> str | None:
        """Return the identifier of a request."""
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> str | None:
        """Return a header of a request."""
        value: str | None = self.request_processor[idx].get_request_property(key)
        return value

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        """Return all headers of a request."""
        headers: dict[str, str] = self.request_processor[idx].get_request_properties()
        return headers

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of a reply."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """Return the content type of a reply."""
        return self.get_response_headers(idx).get("content-type")

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Return status and phrase of a reply."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of a reply."""
        if self.request_processor is not None and self.request_processor[idx] is not None:
            self.request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of every reply."""
        for processor in self.request_processor:
            processor.report_status(code, reason_phrase=phrase)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the headers of a reply."""
        headers: dict[str, str] = self.request_processor[idx].get_response_headers()
        return headers

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of a reply."""
        self.request_processor[idx].add_response_property(key, value)

    def get_sequence_id(self, idx: int) -> str | None:
        """Return the identifier of the sequence that a request belongs to."""
        return self.get_request_header(idx, self.header_key_sequence_id)


def _manifest(folder: Path) -> dict[str, Any] | None:
    file = folder / "MAR-INF" / "MANIFEST.json"
    if not str(folder) or not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
