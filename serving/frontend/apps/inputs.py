"""From an HTTP request to what a worker sees of it (contract 2.1, InferenceRequestHandler.java)."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.frontend.apps.bodies import packing_of
from serving.frontend.apps.exchange import Exchange
from serving.frontend.engine import Priority
from serving.frontend.errors import BadRequestError
from serving.protocol import Parameter

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: Fields of a form, and parameters of a query.
MOST_FIELDS: Final = 10_000
# A form that is read in some milliseconds, whatever is in it: bytes, or else escapes, fields and parts.
_SHORT: Final = 16 * 1024
_MOST_PIECES: Final = 1000
# Semicolons in a header that has parameters; names of files can hold some.
_MOST_OPTIONS: Final = 64
# What is not so any more when the body has been read.
_UNPACKED: Final = frozenset({b"content-encoding", b"expect", b"transfer-encoding"})
# The parser tells a log what it tells its caller; clients must not fill one.
_quiet = logging.Logger("forms", logging.CRITICAL)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_PRIORITIES: Final = {priority.name.lower(): priority for priority in Priority}
_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
# What a file is where its part does not say it.
_FILE_TYPE: Final = "application/octet-stream"
_BAD_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2}).{0,2}", re.DOTALL)
# Encodings that change nothing.
_PLAIN: Final = frozenset({"", "7bit", "8bit", "binary"})
# Bytes that a part's headers may have; names of files can be long.
_MOST_HEADER: Final = 8_192


def headers_of(http: Exchange, length: int) -> dict[str, str]:
    """Return the headers as a worker sees them: with the client's names, and of a body as it is now.

    Args:
        length: bytes of the body, read and unpacked.
    """
    headers = http.named_headers()
    gone = {name.decode() for name in _UNPACKED.intersection(http.headers)}
    if gone:
        if not packing_of(http):
            gone.discard("content-encoding")
        if gone - {"expect"}:
            gone.add("content-length")
        headers = {name: value for name, value in headers.items() if name.lower() not in gone}
    if b"content-length" not in http.headers or "content-length" in gone:
        headers["content-length"] = str(length)
    return headers


def deadline_of(http: Exchange) -> float | None:
    """Read a client's ``x-request-timeout-seconds``: when its time is over, by the loop's clock; None without one.

    Raises:
        BadRequestError: it is no number of seconds.
    """
    given = http.headers.get(b"x-request-timeout-seconds")
    if given is None:
        return None
    text = given.decode("latin-1").strip()
    if not _SECONDS.fullmatch(text) or float(text) == 0:
        raise BadRequestError(f"the header x-request-timeout-seconds must be a number of seconds above 0, not {text!r}")
    return http.arrived + float(text)


def priority_of(http: Exchange) -> Priority:
    """Read a client's ``x-request-priority``.

    Raises:
        BadRequestError: there is none of that name.
    """
    given = http.headers.get(b"x-request-priority")
    return Priority.NORMAL if given is None else priority_named(given.decode("latin-1"))


def priority_named(given: str) -> Priority:
    """Return the priority of a name.

    Raises:
        BadRequestError: there is none.
    """
    text = given.strip().lower()
    if text not in _PRIORITIES:
        raise BadRequestError(f"the header x-request-priority must be {', '.join(_PRIORITIES)}, not {text!r}")
    return _PRIORITIES[text]


def takes_long(content_type: str, body: bytes) -> bool:
    """Whether `inputs_of` would hold up everybody else: each escape, field and part takes its time, bytes do not."""
    if len(body) <= _SHORT:
        return False
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _FORM:
        return body.count(b"%") + body.count(b"&") > _MOST_PIECES
    return kind == _MULTIPART and body.count(b"\r\n--") > _MOST_PIECES


def inputs_of(content_type: str, body: bytes) -> tuple[Parameter, ...]:
    """Find the parameters in a body: the fields of a form, or the body itself.

    Raises:
        BadRequestError: the body is not the form that its content type names.
    """
    mime = content_type.partition(";")[0].strip()
    lower = mime.lower()
    if lower == _FORM:
        return fields(body.rstrip(b"\r\n"), "form")
    if lower == _MULTIPART:
        return multipart(content_type, body)
    return (Parameter("body", body, mime),)


def fields(text: bytes, what: str) -> tuple[Parameter, ...]:
    """Find the fields of an urlencoded form, or of a query.

    Values are bytes, whatever they mean; names are UTF-8.

    Args:
        what: it is, for messages.

    Raises:
        BadRequestError: it has an escape that is none, a field without a name, or too many fields.
    """
    if not text:
        return ()
    if bad := _BAD_ESCAPE.search(text):
        shown = bad[0].decode("latin-1")
        raise BadRequestError(f"the {what} has an escape that is none: {shown!r} at {bad.start()}; write % as %25")
    if text.count(b"&") >= MOST_FIELDS:
        raise _too_many(what)
    found = []
    for pair in text.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            found.append(Parameter(_name(unquote_to_bytes(name), what), unquote_to_bytes(value)))
    return tuple(found)


def multipart(content_type: str, body: bytes) -> tuple[Parameter, ...]:
    """Find the parts of a multipart form: a file has its content type, a field has none.

    Raises:
        BadRequestError: it is none, or is cut, or has too many parts.
    """
    boundary = _options(content_type).get(b"boundary")
    if not boundary:
        raise BadRequestError(
            "the form has no boundary: its content type must name one, as in multipart/form-data; boundary=..."
        )
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks(), max_header_size=_MOST_HEADER)
        parser.logger = _quiet
        parser.write(body)
    except FormParserError as error:
        raise BadRequestError(f"the body is not the multipart form that its content type names: {error}") from error
    if not parts.ended:
        raise BadRequestError(
            "the form ends early: the last boundary is missing, or is not the one that the content type names"
        )
    return tuple(parts.found)


class _Parts:
    """Takes what the parser finds."""

    def __init__(self) -> None:
        self.found: list[Parameter] = []
        self.ended = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        if len(self.found) >= MOST_FIELDS:
            raise _too_many("form")
        self._headers: dict[str, str] = {}
        self._value = bytearray()
        self._header_name, self._header = b"", b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._value += memoryview(data)[start:end]

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = self._header.decode("latin-1")
        self._header_name, self._header = b"", b""

    def _part_end(self) -> None:
        options = _options(self._headers.get("content-disposition", ""))
        name = _name(options.get(b"name", b""), "form")
        encoding = self._headers.get("content-transfer-encoding", "").strip().lower()
        if encoding not in _PLAIN:
            raise BadRequestError(f"the part {name!r} of the form is in {encoding!r}; send it as it is")
        kind = ""
        if b"filename" in options:
            kind = self._headers.get("content-type", _FILE_TYPE).partition(";")[0].strip()
        self.found.append(Parameter(name, self._value, kind))

    def _end(self) -> None:
        self.ended = True


def _options(header: str) -> dict[bytes, bytes]:
    """Return the parameters of a header.

    Raises:
        BadRequestError: it has more than anybody's: they take the square of their number.
    """
    if header.count(";") > _MOST_OPTIONS:
        raise BadRequestError(f"a header of the form has more than {_MOST_OPTIONS} parameters: {header[:80]!r}...")
    return parse_options_header(header)[1]


def _name(name: bytes, what: str) -> str:
    if not name:
        raise BadRequestError(f"a field of the {what} has no name")
    return name.decode("utf-8", "replace")


def _too_many(what: str) -> BadRequestError:
    return BadRequestError(f"the {what} has more than {MOST_FIELDS} fields; send them as one JSON body")
