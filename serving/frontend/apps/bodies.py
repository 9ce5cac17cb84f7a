"""A request's body: read within bounds, and unpacked. `serving.frontend.guard` ends those who send too slowly."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from serving.frontend.apps.exchange import Exchange
from serving.frontend.errors import BadRequestError, TooLargeError

_PACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})


async def read_body(http: Exchange, most: int) -> bytes:
    """Read the body of a request, unpacked if it is in gzip or deflate.

    Any other encoding is the handler's to understand, as every one is in TorchServe.

    Args:
        most: bytes, as they come and unpacked.

    Raises:
        TooLargeError: it is larger.
        BadRequestError: it is not what its encoding says.
        ClientGoneError: it ends early.
    """
    if not http.has_body:
        return b""
    length = http.headers.get(b"content-length", b"")
    if length and int(length) > most:
        raise _too_large(most)
    body = await http.part()
    if not http.complete:
        # Not a list of parts: of parts of few bytes it would take many times their size.
        grown = bytearray(body)
        while not http.complete and len(grown) <= most:
            grown += await http.part()
        body = bytes(grown)
    if len(body) > most:
        raise _too_large(most)
    if packing := packing_of(http):
        # A body of some kilobytes can hold megabytes: not in the loop.
        return await asyncio.to_thread(unpack, body, packing, most)
    return body


def packing_of(http: Exchange) -> str:
    """Return the content encoding that `read_body` undoes; empty for none."""
    encoding = http.headers.get(b"content-encoding")
    name = "" if encoding is None else encoding.decode("latin-1").strip().lower()
    return name if name in _PACKED else ""


def unpack(body: bytes, encoding: str, most: int) -> bytes:
    """Unpack a body.

    Args:
        encoding: ``gzip`` or ``deflate``, which some write without its frame.
        most: bytes of the result.

    Raises:
        TooLargeError: it is larger.
        BadRequestError: the body is not in this encoding, or is cut, or something follows it.
    """
    bits = 31 if encoding.endswith("gzip") else 15 if body[:1] and body[0] & 0x0F == 8 else -15
    reader = zlib.decompressobj(wbits=bits)
    try:
        found = reader.decompress(body, most + 1)
    except zlib.error as error:
        raise BadRequestError(f"the body is not in {encoding}, which its content-encoding says: {error}") from error
    if len(found) > most:
        raise _too_large(most)
    if not reader.eof:
        raise BadRequestError(f"the body ends early: its {encoding} has no end")
    if reader.unused_data:
        raise BadRequestError(f"the body has {len(reader.unused_data)} bytes behind the end of its {encoding}")
    return found


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"the body has more than {most} bytes, which max_request_size in config.properties allows")
