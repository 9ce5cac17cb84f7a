"""Each request of a load test once, before the load: what is wrong with it is no matter of load."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from serving.bench.loads import Place
from serving.bench.targets import Target
from serving.bench.wire.reading import AnswerReader, BadAnswerError
from serving.bench.wire.sending import tls_of
from serving.client.transport import CONNECT_TIMEOUT_S, Reply, error_of
from serving.errors import NotRunningError, ReplyError

_READ: Final = 1 << 16
_LOG: Final = "see the server's log"


async def try_each(target: Target, requests: Sequence[bytes], timeout_s: float, late: str = _LOG) -> None:
    """Send every request as the load will, and wait for the whole answer; no more is kept than the begin of an error.

    Args:
        target: of the requests.
        requests: whole, as `Target.requests` makes them.
        timeout_s: seconds that an answer may take.
        late: what can be done where it takes longer.

    Raises:
        NotRunningError: the server does not listen.
        ReplyError: it answered with something else than 2xx, with nothing in time, or with what cannot be read.
    """
    for request in requests:
        await _try(target, request, timeout_s, late)


async def _try(target: Target, request: bytes, timeout_s: float, late: str) -> None:
    at = target.address.text
    where = f"POST {at}{target.path}"
    try:
        reader, writer = await asyncio.wait_for(_connect(target.place), min(timeout_s, CONNECT_TIMEOUT_S))
    except (OSError, asyncio.TimeoutError) as error:
        raise NotRunningError(f"nobody answers at {at}", where=where, hint="start a server: torchmar start") from error
    answer, problem, hint = AnswerReader(), "", _LOG
    try:
        writer.write(request)
        await asyncio.wait_for(_read(reader, answer), timeout_s)
    except asyncio.TimeoutError:
        problem, hint = f"no answer within {timeout_s:g} s", late
    except OSError as error:
        problem = f"the connection broke: {error}"
    except BadAnswerError as error:
        problem, hint = f"the answer cannot be read: {error}", "answers need HTTP/1.1, and a length or chunks"
    finally:
        writer.transport.abort()
    if problem:
        raise ReplyError(problem, status=0, where=where, hint=hint)
    if not 200 <= answer.status < 300:
        raise error_of(Reply(answer.status, {}, answer.kept, 0.0), where)


async def _connect(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if place.socket_path:
        return await asyncio.open_unix_connection(place.socket_path)
    # In a thread: certificates are read from the disk, and the caller may be a server.
    ssl = await asyncio.to_thread(tls_of, place) if place.tls else None
    tls: dict[str, Any] = {"ssl": ssl, "server_hostname": place.host} if ssl else {}
    return await asyncio.open_connection(place.host, place.port, **tls)


async def _read(reader: asyncio.StreamReader, answer: AnswerReader) -> None:
    """Read a whole answer.

    Raises:
        ConnectionError: the server closed the connection before its end.
        BadAnswerError: it is none.
    """
    while data := await reader.read(_READ):
        if answer.feed(data):
            return
    raise ConnectionError("the server closed it")
