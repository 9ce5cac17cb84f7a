"""The errors of handlers, as types.

A request that fails is answered with the `status` of its error's class. A model that fails to load is answered with the
error's whole text, which therefore says what to do.

    RequestError (400)              one request cannot be answered; the others of its batch can
    ├── BadInputError (400)         the body is not what the model takes
    ├── NotAcceptableError (406)    the reply cannot have the form that the request accepts
    ├── TooLargeError (413)         the body is more than the model takes
    ├── UnsupportedMediaError (415) the handler does not read the body's content type
    └── NotSupportedError (501)     the handler does not offer what the request asks for
    RuntimeError
    └── LoadError                   the model cannot be loaded
        ├── CheckpointMismatchError the checkpoint does not fit the model
        ├── UnsafeCheckpointError   the checkpoint is code as well as data
        ├── ModelFileError          the model file defines no usable model class
        ├── UnsupportedFormatError  the weights are in a format that is not read, or not read this way
        └── LabelMapError           index_to_name.json is not a map of labels

A load error is a `RuntimeError` because TorchServe's own worker answers a load only for that type (and `MemoryError`).
On any other it dies without a reply.
"""

from __future__ import annotations

from typing import ClassVar


class RequestError(Exception):
    """One request cannot be answered. Raise it, or a subclass, from any hook of a handler.

    `message` is sent to the client. `status` is the HTTP status, by default the class's own.
    """

    status: int = 400

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status


class BadInputError(RequestError):
    """The body is not what the model takes."""

    status = 400


class NotAcceptableError(RequestError):
    """The reply cannot have the form that the request accepts."""

    status = 406


class TooLargeError(RequestError):
    """The body is more than the model takes."""

    status = 413


class UnsupportedMediaError(RequestError):
    """The handler does not read the body's content type."""

    status = 415


class NotSupportedError(RequestError):
    """The handler does not offer what the request asks for, such as explanations."""

    status = 501


class LoadError(RuntimeError):
    """The model cannot be loaded. `message` says why, `hint` what to do; `str()` gives both."""

    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class CheckpointMismatchError(LoadError):
    """The checkpoint does not fit the model."""

    default_hint = "check that these weights were saved from this version of this model class"


class UnsafeCheckpointError(LoadError):
    """The checkpoint can only be read by running code that it names."""


class ModelFileError(LoadError):
    """The model file defines no usable model class."""


class UnsupportedFormatError(LoadError):
    """The weights are in a format that is not read, or not read this way."""


class LabelMapError(LoadError):
    """`index_to_name.json` is not a map of labels."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory, or the GPU, failed. Only the worker answers such an error, with 507 as TorchServe does.

    That is a `MemoryError`, torch's `OutOfMemoryError` for any device, or a `RuntimeError` that mentions CUDA, whose
    errors have many classes and wordings.
    """
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    try:
        return isinstance(error, RuntimeError) and "CUDA" in str(error)
    except Exception:  # of a user's class, whose text cannot be read
        return False
