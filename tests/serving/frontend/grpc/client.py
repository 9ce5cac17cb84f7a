"""A client of TorchServe's gRPC APIs, by grpcio and the descriptors of the services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from serving.frontend.grpc import messages

SERVICES = (messages.INFERENCE, messages.MANAGEMENT, messages.OPEN_INFERENCE)


class Client:
    """Calls the methods by their names; a request is given by its fields, or as bytes.

    Args:
        channel: of grpc, or of grpc.aio.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def request(self, method: str, **fields: Any) -> Any:
        """Make the request of a method."""
        return _class(_method(method).input_type)(**fields)

    def callable(self, method: str) -> Any:
        """Return what calls a method, as a stub has it."""
        found = _method(method)
        kinds = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, True): self._channel.stream_stream,
        }
        make = kinds[found.client_streaming, found.server_streaming]
        return make(
            f"/{found.containing_service.full_name}/{method}",
            request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
            response_deserializer=_class(found.output_type).FromString,
        )

    def outcome(self, method: str, data: bytes | None = None, **options: Any) -> tuple[str, str]:
        """Return the name of a call's status, and its text, when it has ended.

        Args:
            data: in place of a request.
        """
        if data is None:
            return outcome(lambda: self(method, **options))
        streamed = _method(method).client_streaming
        options = {"timeout": 60.0, **options}
        return outcome(lambda: self.callable(method)(iter([data]) if streamed else data, **options))

    def __call__(self, method: str, metadata: Any = None, timeout: float | None = 60.0, **fields: Any) -> Any:
        """Call a method that takes one request."""
        return self.callable(method)(self.request(method, **fields), metadata=metadata, timeout=timeout)


def outcome(answer: Callable[[], Any]) -> tuple[str, str]:
    """Return the name of a call's status, and its text, when it has ended."""
    try:
        answered = answer()
        if hasattr(answered, "__next__"):
            list(answered)
    except grpc.RpcError as error:
        found: Any = error
        return found.code().name, found.details()
    return "OK", ""


def _class(descriptor: Any) -> Any:
    return messages.message(descriptor.full_name)


def _method(name: str) -> Any:
    return next(one for service in SERVICES for one in service.methods if one.name == name)
