"""From messages to bytes: one frame each, to be sent with one ``sendall``.

The frontend parses an incomplete frame again from its start at every read, so a reply should reach it in one piece.
Lengths are those of the encoded bytes.
"""

from __future__ import annotations

from struct import Struct

from serving.protocol.decode import INFERENCE, LOAD
from serving.protocol.items import byte_length, fit, sanitise
from serving.protocol.limits import MAX_RESPONSE_SIZE, STATUS_MAX, STATUS_MIN
from serving.protocol.messages import Body, Inference, Load, PredictionItem, Reply
from serving.protocol.reader import END, INT

_pack = INT.pack
_pack_two = Struct("!ii").pack
_END = _pack(END)


def encode_reply(reply: Reply, *, max_response_size: int = MAX_RESPONSE_SIZE) -> bytes:
    """Encode a reply, whatever its items hold: each is made to `fit` and `sanitise`d.

    To learn what was changed, apply the two yourself before; they change nothing the second time. A code that is not
    200 to 999 becomes 500, and a message over the limit is cut.

    Args:
        max_response_size: the frontend's setting of this name, bytes of each field.
    """
    code = reply.code if STATUS_MIN <= reply.code <= STATUS_MAX else 500
    message = _utf8(reply.message)
    if len(message) > max_response_size:
        message = message[:max_response_size].decode("utf-8", "ignore").encode()
    parts: list[Body] = [_pack_two(code, len(message)), message]
    for item in reply.items:
        _add_item(parts, sanitise(fit(item, max_response_size)))
    parts.append(_END)
    return b"".join(parts)


def encode_load_reply(code: int, message: str) -> bytes:
    """Encode the answer to LOAD."""
    return encode_reply(Reply(code, message))


def encode_load(load: Load) -> bytes:
    """Encode LOAD as the frontend sends it."""
    handler = load.model_path if load.handler is None else load.handler
    return b"".join(
        (
            LOAD,
            _text(load.model_name),
            _text(load.model_path),
            _pack(load.batch_size),
            _text(handler),
            _pack(-1 if load.gpu_id is None else load.gpu_id),
            _text(load.envelope or ""),
            b"\1" if load.limit_max_image_pixels else b"\0",
        )
    )


def encode_inference(inference: Inference) -> bytes:
    """Encode a batch as the frontend sends it."""
    parts: list[Body] = [INFERENCE]
    for request in inference.requests:
        parts.append(_text(request.request_id))
        for name, value in request.headers.items():
            parts += (_text(name), _text(value))
        parts.append(_END)
        for parameter in request.parameters:
            parts += (_text(parameter.name), _text(parameter.content_type), _pack(len(parameter.value)))
            parts.append(parameter.value)
        parts.append(_END)
    parts.append(_END)
    return b"".join(parts)


def _add_item(parts: list[Body], item: PredictionItem) -> None:
    request_id = _utf8(item.request_id)
    content_type = _utf8(item.content_type)
    phrase = _utf8(item.phrase)
    headers = item.headers
    parts += (_pack(len(request_id)), request_id, _pack(len(content_type)), content_type)
    parts += (_pack_two(item.status, len(phrase)), phrase, _pack(len(headers)))
    for name, value in headers.items():
        data = _utf8(value)
        parts += (_text(name), _pack(len(data)), data)
    body = item.body
    parts.append(_pack(byte_length(body)))
    # join takes no memoryview with strides
    parts.append(body.tobytes() if isinstance(body, memoryview) else body)


def _utf8(text: str) -> bytes:
    # A lone surrogate, which JSON input can bring into a handler, becomes a question mark.
    return text.encode("utf-8", "replace")


def _text(text: str) -> bytes:
    data = _utf8(text)
    return _pack(len(data)) + data
