"""From bytes to messages: `Decoder` for the worker's side, `ReplyDecoder` for the frontend's.

Notation: ``str`` is an int (its length in bytes) and UTF-8; ``END`` is the int -1; lists are ``{ element } END``.
"""

from __future__ import annotations

from typing import Final

from serving.protocol.errors import ProtocolError
from serving.protocol.limits import (
    MAX_BATCH,
    MAX_FRAME,
    MAX_HEADERS,
    MAX_LOAD_FIELD,
    MAX_PARAMETERS,
    MAX_RESPONSE_HEADER,
    MAX_RESPONSE_SIZE,
)
from serving.protocol.messages import Inference, Load, Parameter, PredictionItem, Reply, Request
from serving.protocol.reader import END, NotWholeError, Reader, Steps, int_at, strict

LOAD: Final = b"L"
INFERENCE: Final = b"I"


class Decoder(Reader[Load | Inference]):
    """Decodes what the frontend sends::

        LOAD       'L' str model_name, str model_path, int batch_size, str handler, int gpu_id (-1: none),
                   str envelope (empty: none), bool limit_max_image_pixels (one byte)
        INFERENCE  'I' { request } END
        request    str request_id, { str name, str value } END, { parameter } END
        parameter  str name, str content_type, int length, bytes

    Args:
        max_frame: bytes that one message may have.
    """

    def __init__(self, *, max_frame: int = MAX_FRAME) -> None:
        super().__init__(max_frame=max_frame)

    def _message(self) -> Steps[Load | Inference]:
        command = yield from self._take(1)
        if command == LOAD:
            return (yield from self._load())
        if command != INFERENCE:
            raise self._wrong("a command, 'L' or 'I'", repr(command), self._pos - 1)
        requests: list[Request] = []
        while True:
            # The id and the headers are one list on the wire, and the end of the batch is an empty one.
            start = self._base + self._pos + 4
            strings = yield from self._strings(1 + 2 * MAX_HEADERS, "a request id or a header")
            if not strings:
                return Inference(tuple(requests))
            if len(requests) == MAX_BATCH:
                raise ProtocolError(f"the end of a batch of {MAX_BATCH}", "one more request", start)
            if len(strings) % 2 == 0:
                raise self._wrong("the value of a header", "the end of the list", self._pos - 4)
            request_id = strict(strings[0], "a request id", start)
            start = self._base + self._pos + 4
            values = yield from self._strings(3 * MAX_PARAMETERS, "a part of a parameter", bodies=True)
            if len(values) % 3:
                raise self._wrong("the rest of a parameter", "the end of the list", self._pos - 4)
            requests.append(Request(request_id, _headers(strings), _parameters(values, start)))

    def _load(self) -> Steps[Load]:
        name = yield from self._load_field("a model's name")
        path = yield from self._load_field("a model's path")
        batch_size = yield from self._int()
        if batch_size < 1:
            raise self._wrong("a batch size, 1 or more", str(batch_size), self._pos - 4)
        handler = yield from self._load_field("a handler")
        gpu_id = yield from self._int()
        envelope = yield from self._load_field("an envelope")
        limit_pixels = yield from self._take(1)
        return Load(
            model_name=name,
            model_path=path,
            batch_size=batch_size,
            handler=None if handler == path else handler,
            gpu_id=None if gpu_id < 0 else gpu_id,
            envelope=envelope or None,
            limit_max_image_pixels=limit_pixels != b"\0",
        )

    def _load_field(self, what: str) -> Steps[str]:
        size = yield from self._int()
        return (yield from self._text(size, what, MAX_LOAD_FIELD))


def _headers(strings: list[bytes | bytearray]) -> dict[str, str]:
    """Decode names and values by turns, after the request id.

    Bytes that are not UTF-8 become U+FFFD, as in Java. A client's odd header must neither end the worker nor give a
    handler a lone surrogate, which would raise wherever it is printed.
    """
    pairs = iter(strings)
    next(pairs)
    try:
        return {name.decode(): value.decode() for name, value in zip(pairs, pairs, strict=True)}
    except UnicodeDecodeError:
        texts = [string.decode("utf-8", "replace") for string in strings]
        return dict(zip(texts[1::2], texts[2::2], strict=True))


def _parameters(strings: list[bytes | bytearray], offset: int) -> tuple[Parameter, ...]:
    """Decode names, content types and values by turns; ``offset`` is the place of the first one in the message."""
    parameters: list[Parameter] = []
    parts = iter(strings)
    for name, content_type, value in zip(parts, parts, parts, strict=True):
        parameters.append(
            Parameter(
                strict(name, "a parameter's name", offset),
                value if isinstance(value, bytearray) else bytearray(value),
                strict(content_type, "a content type", offset + len(name) + 4),
            )
        )
        offset += len(name) + len(content_type) + len(value) + 12
    return tuple(parameters)


class ReplyDecoder(Reader[Reply]):
    """Decodes what a worker sends, with the frontend's own limits::

        REPLY  int code, str message, { item } END
        item   str request_id, str content_type, int status, str phrase,
               int count, then count times str name, str value; int length, bytes

    Args:
        max_response_size: the frontend's setting of this name, bytes of each field.
    """

    def __init__(self, *, max_response_size: int = MAX_RESPONSE_SIZE) -> None:
        super().__init__(max_frame=MAX_FRAME)
        self._max_field = max_response_size
        self._most_headers = min(MAX_HEADERS, max_response_size)

    def _message(self) -> Steps[Reply]:
        code = yield from self._int()
        message = yield from self._field("a message")
        items: list[PredictionItem] = []
        while (size := (yield from self._int())) != END:
            if (item := self._whole_item()) is not None:
                items.append(item)
                continue
            request_id = yield from self._text(size, "a request id", self._max_field)
            content_type = yield from self._field("a content type")
            status = yield from self._int()
            phrase = yield from self._field("a reason phrase")
            headers = yield from self._headers()
            size = yield from self._int()
            body = yield from self._bytes(size, "a body", self._max_field)
            items.append(PredictionItem(request_id, body, status, phrase, content_type, headers))
        return Reply(code, message, tuple(items))

    def _whole_item(self) -> PredictionItem | None:
        """Take an item whose first length has just been read, if all of it has come; else leave the place as it is.

        As a rule it has. With a generator for each field an item took three times as long. What is wrong with one is
        left to those: they know its place.
        """
        data, most = self._data, self._max_field
        try:
            request_id, pos = self._string_at(self._pos - 4, most)
            content_type, pos = self._string_at(pos, most)
            status = int_at(data, pos)[0]
            phrase, pos = self._string_at(pos + 4, most)
            count = int_at(data, pos)[0]
            pos += 4
            headers: dict[str, str] = {}
            for _ in range(min(count, self._most_headers)):
                name, pos = self._string_at(pos, MAX_RESPONSE_HEADER)
                value, pos = self._string_at(pos, MAX_RESPONSE_HEADER)
                headers[name.decode()] = value.decode()
            body, pos = self._string_at(pos, most)
            if not 0 <= count <= self._most_headers:
                return None
            item = PredictionItem(request_id.decode(), body, status, phrase.decode(), content_type.decode(), headers)
        except (NotWholeError, UnicodeDecodeError):
            return None
        self._pos = pos
        return item

    def _headers(self) -> Steps[dict[str, str]]:
        count = yield from self._int()
        most = self._most_headers
        if not 0 <= count <= most:
            raise self._wrong(f"the number of headers, 0 to {most}", str(count), self._pos - 4)
        headers: dict[str, str] = {}
        for _ in range(count):
            size = yield from self._int()
            name = yield from self._text(size, "a header's name", MAX_RESPONSE_HEADER)
            size = yield from self._int()
            headers[name] = yield from self._text(size, "a header's value", MAX_RESPONSE_HEADER)
        return headers

    def _field(self, what: str) -> Steps[str]:
        size = yield from self._int()
        return (yield from self._text(size, what, self._max_field))
