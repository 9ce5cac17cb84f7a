"""The part of the worker's context that a handler uses; the worker passes it with every call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Context(Protocol):
    """The worker's context, TorchServe's or any other; `idx` counts the requests of the batch from 0.

    A context may lack `model_yaml_config`, and any value may be None until the worker has set it. TorchServe's own
    lacks `deadline`, `attempt`, `trace` and their getters; with TorchServe's frontend the first two are None and 1.
    """

    manifest: dict[str, Any] | None
    """The archive's manifest."""

    model_yaml_config: dict[str, Any] | None
    """The archive's model-config.yaml."""

    metrics: Any
    """The recorder of metrics: `add_time(name, milliseconds, idx, unit)` and its siblings."""

    request_ids: dict[int, str] | None
    """The identifier of each request of the batch."""

    request_processor: Any
    """A list with the headers and the reply's status of each request of the batch."""

    @property
    def deadline(self) -> float | None:
        """When nobody waits for the batch any more, on the clock of `time.monotonic`; None if somebody may for ever."""

    @property
    def attempt(self) -> int:
        """The highest of its requests' attempts."""

    @property
    def trace(self) -> str | None:
        """W3C's `traceparent` of the first request of the batch that has one, for what the handler calls itself."""

    def get_trace(self, idx: int = 0) -> str | None:
        """Return `traceparent` of one request: the worker's span if it is traced, else the client's own, or None."""

    def get_deadline(self, idx: int = 0) -> float | None:
        """Return when the client of one request has given up; None if that is not known."""

    def get_attempt(self, idx: int = 0) -> int:
        """Return which try of one request it is: 1, and more where workers died that had it before."""

    @property
    def system_properties(self) -> Mapping[str, Any]:
        """`model_dir`, `gpu_id` (None without a GPU), `batch_size`, `limit_max_image_pixels`."""

    def get_request_header(self, idx: int, key: str) -> str | None:
        """Return a header of one request."""

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the HTTP status of one reply."""

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of one reply."""
