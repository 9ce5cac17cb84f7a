"""What a request can fail with: an HTTP status, and the type and message that TorchServe's frontend writes for it.

::

    FrontendError                      what is written as {"code", "type", "message"}
    ├── BadRequestError           400  BadRequestException
    ├── ModelError                400  ModelException
    ├── InvalidKeyError           400  InvalidKeyException
    ├── NotAllowedError           403  InvalidModelVersionException
    ├── ForbiddenError            403  ForbiddenException: ours alone
    ├── ResourceNotFoundError     404  ResourceNotFoundException: no such route
    ├── ModelNotFoundError        404  ModelNotFoundException
    ├── VersionNotFoundError      404  ModelVersionNotFoundException
    ├── MethodNotAllowedError     405  MethodNotAllowedException
    ├── RequestTimeoutError       408  RequestTimeoutException
    ├── ConflictError             409  ConflictStatusException
    ├── TooLargeError             413  RequestEntityTooLargeException
    ├── InternalError             500  InternalServerException
    ├── NoGpusError               500  WorkerInitializationException
    ├── NotImplementedHereError   501  NotImplementedException
    ├── UnavailableError          503  ServiceUnavailableException: no worker, a full queue, a server that ends
    ├── DeadlineError             504  DeadlineExceededException: ours alone
    └── OutOfResourcesError       507  OutOfMemoryException
"""

from __future__ import annotations

from typing import Any, ClassVar


class FrontendError(Exception):
    """A request that gets an error for its answer.

    Attributes:
        status: of the HTTP response.
        kind: ``type`` in its body.
        message: ``message`` in its body.
        headers: of the response, such as ``Retry-After``.
    """

    status: int = 500
    kind: ClassVar[str] = "InternalServerException"

    def __init__(self, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers or {}

    @property
    def document(self) -> dict[str, Any]:
        """The body of the response, in JSON."""
        return {"code": self.status, "type": self.kind, "message": self.message}


class BadRequestError(FrontendError):
    """What was sent cannot be understood, or cannot be done."""

    status, kind = 400, "BadRequestException"


class ModelError(FrontendError):
    """A model that cannot be registered as it is."""

    status, kind = 400, "ModelException"


class InvalidKeyError(FrontendError):
    """A key is missing, wrong or has expired."""

    status, kind = 400, "InvalidKeyException"


class NotAllowedError(FrontendError):
    """The default version cannot be removed while there are others."""

    status, kind = 403, "InvalidModelVersionException"


class ForbiddenError(FrontendError):
    """A page in a browser asks for what its reader did not."""

    status, kind = 403, "ForbiddenException"


class ResourceNotFoundError(FrontendError):
    """No such route."""

    status, kind = 404, "ResourceNotFoundException"


class ModelNotFoundError(FrontendError):
    """No such model."""

    status, kind = 404, "ModelNotFoundException"


class VersionNotFoundError(FrontendError):
    """The model has no such version."""

    status, kind = 404, "ModelVersionNotFoundException"


class MethodNotAllowedError(FrontendError):
    """The route does not have this method, or the API is off."""

    status, kind = 405, "MethodNotAllowedException"


class RequestTimeoutError(FrontendError):
    """Workers did not end in time."""

    status, kind = 408, "RequestTimeoutException"


class ConflictError(FrontendError):
    """A version that is there already."""

    status, kind = 409, "ConflictStatusException"


class TooLargeError(FrontendError):
    """A body above max_request_size."""

    status, kind = 413, "RequestEntityTooLargeException"


class InternalError(FrontendError):
    """A worker failed; the status is the one that it gave, if it gave one."""

    kind = "InternalServerException"

    def __init__(self, message: str, *, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class NoGpusError(FrontendError):
    """A worker needs more GPUs than there are."""

    status, kind = 500, "WorkerInitializationException"


class NotImplementedHereError(FrontendError):
    """A route of TorchServe's that this frontend does not have."""

    status, kind = 501, "NotImplementedException"


class UnavailableError(FrontendError):
    """No worker, a full queue, or a server that is about to end."""

    status, kind = 503, "ServiceUnavailableException"


class DeadlineError(FrontendError):
    """The time that the client gave has passed before the model saw its request."""

    status, kind = 504, "DeadlineExceededException"


class OutOfResourcesError(FrontendError):
    """A worker ran out of memory."""

    status, kind = 507, "OutOfMemoryException"


def no_worker(name: str, version: str | None, *, headers: dict[str, str] | None = None) -> UnavailableError:
    """Make the error of a request that nobody can answer, in TorchServe's words, with its quotation marks.

    Args:
        name: of the model.
        version: that the request named.
        headers: of the response.
    """
    named = f'" Version {version}' if version is not None else ""
    return UnavailableError(
        f'Model "{name}{named}" has no worker to serve inference request. '
        "Please use scale workers API to add workers. If this is a sequence inference, please check if it is closed, "
        "or expired; or exceeds maxSequenceJobQueueSize",
        headers=headers,
    )
