"""gRPC's statuses in the place of HTTP's, by TorchServe's rules and in its words (GRPCUtils.java, GRPCJob.java)."""

from __future__ import annotations

import json
from typing import Any, Final

import grpc

from serving.frontend.errors import (
    FrontendError,
    InternalError,
    ModelNotFoundError,
    UnavailableError,
    VersionNotFoundError,
)
from serving.frontend.grpc.messages import ErrorInfo, PredictionResponse

_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    416: grpc.StatusCode.OUT_OF_RANGE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CLASSES: Final = {400: grpc.StatusCode.FAILED_PRECONDITION, 500: grpc.StatusCode.INTERNAL}
# Classes of Java that are not in the package of the others.
_OF_MODELS: Final = frozenset({"ModelException", "ModelNotFoundException", "ModelVersionNotFoundException"})
#: What stands for the class of an error that the inference API finds itself.
BAD_REQUEST: Final = "BadRequestException.()"
_NO_WORKER: Final = "InternalServerException.()"
# Bytes of a status' text: trailers have 8 KiB, and each byte may take three there.
_MOST_TEXT: Final = 2000


class RefusedError(Exception):
    """A call that ends with an error.

    Attributes:
        code: gRPC's.
        message: what is wrong.
        reason: TorchServe's name of the kind, the second line of the text.
    """

    def __init__(self, code: grpc.StatusCode, message: str, reason: str) -> None:
        super().__init__(message)
        self.code, self.message, self.reason = code, message, reason

    @property
    def text(self) -> str:
        """The text of the status."""
        return f"{_cut(self.message)}\n{self.reason}"

    def response(self) -> Any:
        """Tell it in a response of StreamPredictions2, whose stream goes on."""
        response = PredictionResponse()
        response.status.code, response.status.message = self.code.value[0], self.message
        # What Any.Pack would do, whose pool is another one.
        detail = response.status.details.add()
        detail.type_url = f"type.googleapis.com/{ErrorInfo.DESCRIPTOR.full_name}"
        detail.value = ErrorInfo(reason=self.reason).SerializeToString()
        return response


def code_of(status: int) -> grpc.StatusCode:
    """Return gRPC's code for an HTTP status of an error."""
    return _CODES.get(status) or _CLASSES.get(status // 100 * 100, grpc.StatusCode.UNKNOWN)


def refusal(error: FrontendError) -> RefusedError:
    """Tell an error as the management API does."""
    package = "archive.model" if error.kind in _OF_MODELS else "http"
    return RefusedError(code_of(error.status), error.message, f"org.pytorch.serve.{package}.{error.kind}")


def inference_refusal(error: FrontendError) -> RefusedError:
    """Tell an error as the inference API does: what it has no model or no worker for is INTERNAL there."""
    told = refusal(error)
    if isinstance(error, (ModelNotFoundError, VersionNotFoundError)):
        return RefusedError(grpc.StatusCode.INTERNAL, told.message, told.reason)
    if isinstance(error, UnavailableError):
        return RefusedError(grpc.StatusCode.INTERNAL, told.message, _NO_WORKER)
    return told


def missing(parameter: str) -> RefusedError:
    """Tell that a request lacks what it needs, as the inference API does."""
    return RefusedError(grpc.StatusCode.INTERNAL, f"Parameter {parameter} is required.", BAD_REQUEST)


def failure(status: int, body: bytes) -> InternalError:
    """Make the error of an answer whose status says that it is one; over gRPC that would be lost.

    Our workers write its text as JSON, others what their handler likes.
    """
    return InternalError(_told_in(body), status=status)


def _told_in(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(content, dict):
        if "message" in content:
            return str(content["message"])
        match content.get("outputs"):
            case [{"name": "error", "data": [reason]}]:  # serving/worker/answering/open_inference.py
                return str(reason)
    return text


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:_MOST_TEXT].decode("utf-8", "ignore")
