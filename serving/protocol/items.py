"""Parts of an answer that the frontend would not survive, and their replacements.

An item that Netty refuses, or a field over the frontend's limit, makes the frontend kill the worker: every request of
the batch fails for one odd answer.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice

from serving.protocol.limits import MAX_HEADERS, MAX_RESPONSE_HEADER, MAX_RESPONSE_SIZE, STATUS_MAX, STATUS_MIN
from serving.protocol.messages import Body, PredictionItem

# Netty refuses an empty name, whitespace, NUL, non-ASCII and these separators; the other controls are no better.
_BAD_NAME = re.compile(r"[^\x21-\x7e]|[=:;,]")
# Netty refuses CR, LF, NUL, VT and FF. Of the controls HTTP allows a tab alone.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def sanitise(item: PredictionItem) -> PredictionItem:
    """Return ``item`` without what Netty refuses; ``item`` itself if it has nothing of that kind.

    Controls in the phrase, the content type and header values become blanks, headers whose name is refused are left
    out, and a status that is not 200 to 999 becomes 500.
    """
    status, phrase, content_type, headers = item.status, item.phrase, item.content_type, item.headers
    if not STATUS_MIN <= status <= STATUS_MAX:
        status = 500
    # isprintable is three times as fast as the search, and almost every text is printable.
    if not phrase.isprintable():
        phrase = _clean(phrase)
    if not content_type.isprintable():
        content_type = _clean(content_type)
    for name, value in headers.items():
        if not (_name_is_safe(name) and (value.isprintable() or value == _clean(value))):
            headers = {name: _clean(value) for name, value in headers.items() if _name_is_safe(name)}
            break
    if (
        headers is item.headers
        and status == item.status
        and phrase == item.phrase
        and content_type == item.content_type
    ):
        return item
    return replace(item, status=status, phrase=phrase, content_type=content_type, headers=headers)


def fit(item: PredictionItem, max_response_size: int = MAX_RESPONSE_SIZE) -> PredictionItem:
    """Return ``item`` within the frontend's limits; ``item`` itself if it is within them.

    A body over the limit is replaced by an error of status 507 that names the limit. It keeps the headers that do not
    describe the body: ``ts_stream_next`` and those of sequences steer the frontend. A phrase, a content type or a
    header over the limit is left out. The request id is not touched: an unknown one would be no better.
    """
    size = byte_length(item.body)
    if size > max_response_size:
        item = _too_large(item, size, max_response_size)
    if _exceeds(item.phrase, max_response_size):
        item = replace(item, phrase="")
    if _exceeds(item.content_type, max_response_size):
        item = replace(item, content_type="")
    headers = item.headers
    # The frontend checks the number of headers as if it were a length.
    most = min(MAX_HEADERS, max_response_size)
    if len(headers) > most:
        item = replace(item, headers=dict(islice(headers.items(), most)))
    for name, value in headers.items():
        if _exceeds(name, MAX_RESPONSE_HEADER) or _exceeds(value, MAX_RESPONSE_HEADER):
            return replace(item, headers=_short_headers(item.headers))
    return item


def byte_length(body: Body) -> int:
    """Return the number of bytes of a body; the length of a memoryview counts elements."""
    return body.nbytes if isinstance(body, memoryview) else len(body)


def _too_large(item: PredictionItem, size: int, limit: int) -> PredictionItem:
    error = {
        "code": 507,
        "type": "ResponseTooLarge",
        "message": f"the answer has {size} bytes, max_response_size in config.properties allows {limit}",
    }
    body = json.dumps(error).encode()
    return PredictionItem(
        item.request_id,
        body if len(body) <= limit else b"",
        status=507,
        content_type="application/json",
        headers={name: value for name, value in item.headers.items() if not name.lower().startswith("content-")},
    )


def _clean(text: str) -> str:
    return _CONTROL.sub(" ", text)


def _name_is_safe(name: str) -> bool:
    return name != "" and _BAD_NAME.search(name) is None


def _exceeds(text: str, limit: int) -> bool:
    # A character has at most four bytes, so almost no text need be encoded to know.
    return 4 * len(text) > limit and len(text.encode("utf-8", "replace")) > limit


def _short_headers(headers: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if not (_exceeds(name, MAX_RESPONSE_HEADER) or _exceeds(value, MAX_RESPONSE_HEADER))
    }
