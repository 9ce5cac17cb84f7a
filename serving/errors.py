"""Errors of servers; each class owns its exit code.

::

    TorchmarError (archive_tool.errors)
    └── ServingError              6
        ├── StartError            6   a server cannot be started, or a model of it cannot be loaded
        │   └── ModelLoadError    6   a worker failed to load its model; carries the worker's own error
        ├── PortInUseError        8   another program listens on a port that the server needs
        ├── AlreadyRunningError   8   a server of this name runs already
        ├── NotRunningError       7   no server of this name, or none that answers at its address
        ├── ReplyError            9   the server answered with an error; carries its status and message
        │   └── ModelApiOffError  9   the server neither takes nor removes models
        └── CheckError            10  a model that can be loaded fails on an input, or gives another answer
"""

from __future__ import annotations

from typing import ClassVar, Final

from archive_tool.errors import TorchmarError

#: TorchServe's name of the error of a key that is missing, wrong or no longer good.
INVALID_KEY: Final = "InvalidKeyException"


class ServingError(TorchmarError):
    """Something about a server that we can explain."""

    exit_code: ClassVar[int] = 6


class StartError(ServingError):
    """A server cannot be started."""


class ModelLoadError(StartError):
    """A worker failed to load its model.

    Args:
        message: the model and the first cause.
        model: name of the model.
        traceback: the worker's own traceback, empty if none was found.
    """

    def __init__(
        self,
        message: str,
        *,
        model: str,
        traceback: str = "",
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.model = model
        self.traceback = traceback


class PortInUseError(ServingError):
    """Another program listens on a port that the server needs."""

    exit_code = 8


class AlreadyRunningError(ServingError):
    """A server of this name runs already."""

    exit_code = 8


class NotRunningError(ServingError):
    """No server of this name, or none that answers at its address."""

    exit_code = 7


class ReplyError(ServingError):
    """The server answered with an error.

    Args:
        message: the server's own message.
        status: HTTP status, 0 if the reply was not HTTP.
        kind: the server's name of the error, such as ``ModelNotFoundException``.
    """

    exit_code = 9

    def __init__(
        self, message: str, *, status: int, kind: str = "", where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status
        self.kind = kind


class ModelApiOffError(ReplyError):
    """The server neither takes nor removes models while it runs."""

    def __init__(self, where: str | None = None) -> None:
        super().__init__(
            "the server neither takes nor removes models: its model API is off",
            status=405,
            kind="MethodNotAllowedException",
            where=where,
            hint="start it with its model API: torchmar start --enable-model-api (on Ray: torchmar deploy ray); "
            "requests then need a key, which torchmar's commands find",
        )


class CheckError(ServingError):
    """A model that can be loaded fails on an input, or gives another answer than was expected.

    Args:
        message: which input, and what happened.
        traceback: of the handler, empty if there is none.
    """

    exit_code = 10

    def __init__(self, message: str, *, traceback: str = "", where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, hint=hint)
        self.traceback = traceback
