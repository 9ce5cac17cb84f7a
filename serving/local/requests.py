"""HTTP requests as what the frontend would send a worker for them (InferenceRequestHandler.java)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from email.parser import BytesParser
from email.policy import Compat32
from urllib.parse import parse_qsl

from serving.protocol import Parameter, Request

_FORM = "application/x-www-form-urlencoded"
_SEQUENCE_ID = "ts_request_sequence_id"
_SEQUENCE_START = "ts_request_sequence_start"


class _Raw(Compat32):
    """A mail policy that keeps headers as they came; names in forms are UTF-8, which mail does not have."""

    def header_fetch_parse(self, name: str, value: str) -> str:  # noqa: ARG002
        return value


_RAW = _Raw()


class FormError(ValueError):
    """The body is not a form, although the request says so."""


def request_of(
    headers: Mapping[str, str], body: bytes, *, explain: bool = False, path: str = "", sequences: bool = False
) -> Request:
    """Make a request for ``/predictions/<model>`` or ``/explanations/<model>``.

    Args:
        headers: of the HTTP request, with the client's own casing.
        body: of it.
        explain: whether an explanation is asked for.
        path: segments of the URL after model and version.
        sequences: whether each request belongs to a sequence; one that names none begins its own.

    Raises:
        FormError: the body is not what its content type says.
    """
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    mime = kind.partition(";")[0].strip()
    if mime.lower() == "multipart/form-data":
        parameters = _multipart(kind, body)
    elif mime.lower() == _FORM:
        parameters = _fields(body)
    else:
        parameters = (Parameter("body", bytearray(body), mime),)
    seen = {**headers, "explain": str(explain), "url_path": path}
    if sequences and not any(name.lower() == _SEQUENCE_ID for name in headers):
        seen |= {_SEQUENCE_ID: f"ts-seq-{uuid.uuid4()}", _SEQUENCE_START: "true"}
    return Request(str(uuid.uuid4()), seen, parameters)


def _multipart(kind: str, body: bytes) -> tuple[Parameter, ...]:
    # The standard library's parser of mail takes forms, too: they have the same grammar.
    message = BytesParser(policy=_RAW).parsebytes(b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + body)
    if not message.is_multipart():
        raise FormError("the body is no multipart form: it lacks the boundaries that the content type names")
    found = []
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        if part.is_multipart() or not isinstance(name, str):
            continue
        value = part.get_payload(decode=True)
        own = str(part["content-type"] or "").partition(";")[0].strip()
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        found.append(Parameter(name, bytearray(value if isinstance(value, bytes) else b""), own))
    return tuple(found)


def _fields(body: bytes) -> tuple[Parameter, ...]:
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormError("the form is not UTF-8") from error
    return tuple(Parameter(name, bytearray(value.encode())) for name, value in pairs)
