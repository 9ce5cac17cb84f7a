"""What all methods have in common: how they are found, what their errors become, keys, the lines of the access log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from serving.control.following.forms import Access
from serving.frontend.apps.keys import FAILED, Keys, Kind
from serving.frontend.entrance import GRPC, Sampled
from serving.frontend.errors import BadRequestError, FrontendError, InternalError, InvalidKeyError, UnavailableError
from serving.frontend.grpc.messages import message
from serving.frontend.grpc.statuses import RefusedError, refusal

#: Takes a request, or those of a stream, and the context; returns the response, or None where it has written its own.
Method: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
Refusal: TypeAlias = Callable[[FrontendError], RefusedError]

_log = logging.getLogger(__name__)
#: Seconds in which the message of a call without the key may come.
_DENIED_S: Final = 1.0

_MAKE = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Calls:
    """Those of a server.

    Args:
        access: takes the lines of the access log; None for none.

    Attributes:
        under_way: how many have begun and not ended.
        ending: whether new ones are refused.
    """

    def __init__(self, access: Sampled | None = None) -> None:
        self.under_way = 0
        self.ending = False
        self._access = access

    def handler(self, service: Any, methods: Mapping[str, Method], refused: Refusal = refusal) -> Any:
        """Make what serves a service.

        Args:
            service: its descriptor.
            methods: by their names, all of them.
            refused: what becomes of an error.
        """
        handlers = {}
        for found in service.methods:
            make: Any = _MAKE[found.client_streaming, found.server_streaming]
            handlers[found.name] = make(
                # Requests come as bytes: of one that it cannot read grpc would say UNKNOWN, and write a traceback.
                self._guarded(found, methods[found.name], refused),
                response_serializer=message(found.output_type.full_name).SerializeToString,
            )
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _guarded(self, described: Any, method: Method, refused: Refusal) -> Method:
        name = f"{described.containing_service.full_name}/{described.name}"
        kind = message(described.input_type.full_name)
        read = _read_all if described.client_streaming else _read

        async def call(request: Any, context: Any) -> Any:
            # Asked now: of a call that has ended nothing is known.
            peer = context.peer() if self._access else ""
            begun, told = time.monotonic(), grpc.StatusCode.OK

            def made() -> Access:
                return Access(_shown(peer), GRPC, name, "HTTP/2.0", told.value[0], time.monotonic() - begun)

            self.under_way += 1
            try:
                if self.ending:
                    raise refusal(UnavailableError("the server is about to end"))
                return await method(read(kind, request), context)
            except (FrontendError, RefusedError) as error:
                why = error if isinstance(error, RefusedError) else refused(error)
                told = why.code
                await context.abort(told, why.text)
            except Exception as error:
                told = grpc.StatusCode.INTERNAL
                await context.abort(told, failed(name, error).text)
            except BaseException:
                told = grpc.StatusCode.CANCELLED
                raise
            finally:
                self.under_way -= 1
                if self._access:
                    self._access(made, failed=told is not grpc.StatusCode.OK)

        return call


def _read(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise refusal(BadRequestError(f"the message is no {name}: {error}")) from error


async def _read_all(kind: Any, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in requests:
        yield _read(kind, data)


def failed(name: str, error: Exception) -> RefusedError:
    """Log an error that nobody foresaw; return what the client is told."""
    _log.error("%s failed", name, exc_info=error)
    return refusal(InternalError("the server failed; its log has the reason"))


def told_in(metadata: Any, key: str) -> str:
    """Return what a client has sent beside its request; of equal keys the last, empty where it is not there."""
    found = [value for name, value in metadata or () if name == key and isinstance(value, str)]
    return found[-1] if found else ""


class KeyCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets calls pass that have the key; the others end without a look into their message.

    Args:
        keys: of the server.
        kinds: the API of each service, by its full name.
    """

    def __init__(self, keys: Keys, kinds: Mapping[str, Kind]) -> None:
        self._keys, self._kinds = keys, kinds

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Return what answers a call."""
        handler = await continuation(details)
        if handler is None:
            return None  # no such method, which is no secret
        key = told_in(details.invocation_metadata, "authorization")
        try:
            self._keys.check(self._kinds[details.method.split("/")[1]], key)
        except InvalidKeyError:
            return _DENIED
        return handler


async def _deny(requests: AsyncIterator[bytes], context: Any) -> None:
    # A call that ends before its message has come is reset, and some clients, such as curl, then drop the status.
    with contextlib.suppress(StopAsyncIteration, asyncio.TimeoutError):
        await asyncio.wait_for(anext(requests), _DENIED_S)
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, FAILED)


_DENIED = grpc.stream_stream_rpc_method_handler(_deny)


def _shown(peer: str) -> str:
    """Return a client's address as the access log has it."""
    return unquote(peer.partition(":")[2])
