"""The messages, as values.

::

    frontend -> worker   Load | Inference(Request(Parameter...)...)
    worker -> frontend   Reply(PredictionItem...)      also the answer to Load, with no items

The frontend always speaks first, and waits for the reply. Nothing on the wire tells a prediction from an explanation
or a description: headers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Body: TypeAlias = bytes | bytearray | memoryview

#: Headers of a request from torchmar's own frontend to torchmar's own worker. HTTP has no names with a colon, so
#: neither that frontend nor TorchServe's can have read them from a client.
DEADLINE: Final = ":deadline"
"""When the client has given up, seconds on the clock of `time.monotonic`, which all processes of a machine share."""
ATTEMPT: Final = ":attempt"
"""From 2 on: which try it is of a request whose workers died."""
TRACE: Final = ":trace"
"""Of a request that is traced: the span of its worker, as W3C's ``traceparent``. Its answer has `PARTS`."""
_OWN: Final = frozenset({DEADLINE, ATTEMPT, TRACE})
#: Header of the answer to a request that is traced: ``name=begin,end`` of the worker's work and its parts, with
#: semicolons between them, seconds on the clock of `time.monotonic`. The frontend takes it out.
PARTS: Final = "torchmar_parts"


@dataclass(frozen=True, slots=True)
class Load:
    """Load this model; the first message of a connection.

    Attributes:
        model_path: folder of the extracted archive, absolute; symbolic links are not resolved.
        batch_size: most requests that a message will carry, 1 or more.
        handler: the manifest's handler; None if it names none (on the wire the frontend then repeats `model_path`).
        gpu_id: index of the device; None without one.
        envelope: the server-wide `service_envelope`; None without one.
        limit_max_image_pixels: whether PIL's bound on image sizes stays on.
    """

    model_name: str
    model_path: str
    batch_size: int = 1
    handler: str | None = None
    gpu_id: int | None = None
    envelope: str | None = None
    limit_max_image_pixels: bool = True


@dataclass(frozen=True, slots=True)
class Parameter:
    """One input of a request: a form field, or the whole HTTP body under the name ``body``.

    Attributes:
        value: raw bytes, always a bytearray when decoded from the wire: handlers depend on the type.
        content_type: MIME type without parameters; often empty.
    """

    name: str
    value: bytes | bytearray
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a batch.

    Attributes:
        request_id: must be repeated exactly in the answer.
        headers: with the client's own casing; of equal names the last one stands.
        parameters: empty for a description and for the later steps of continuous batching.
    """

    request_id: str
    headers: dict[str, str] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()

    @property
    def is_grpc(self) -> bool:
        """Whether it came over gRPC, and is of no sequence: every other one has headers of its client."""
        return self.headers.keys() <= _OWN


@dataclass(frozen=True, slots=True)
class Inference:
    """Requests to answer together. Empty if all clients of a batch have gone; it is answered like any other."""

    requests: tuple[Request, ...] = ()


@dataclass(frozen=True, slots=True)
class PredictionItem:
    """The answer to one request.

    Attributes:
        status: HTTP status.
        phrase: reason phrase of the HTTP status line; may be empty.
        content_type: empty for no content-type header.
        headers: of the HTTP response.
    """

    request_id: str
    body: Body
    status: int = 200
    phrase: str = ""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a message.

    Attributes:
        code: 200, or the HTTP status of every request of the batch: the frontend then ignores the items.
        message: text of that error; not shown to clients at 200.
        items: every request of the batch must be answered, here or in an earlier frame of the same stream.
    """

    code: int
    message: str
    items: tuple[PredictionItem, ...] = ()


def header_of(headers: Mapping[str, str], name: str) -> str:
    """Return a header of a request or an answer, however its name is written; empty where it is not there."""
    return next((value for header, value in headers.items() if header.lower() == name.lower()), "")
