"""OpenAI's form of an error, from which its clients make exceptions."""

from __future__ import annotations

from typing import Any, Final

from serving.frontend.errors import (
    BadRequestError,
    FrontendError,
    InvalidKeyError,
    ModelNotFoundError,
    VersionNotFoundError,
)

#: ``code`` of a model that another route answers for.
NOT_FOR_THIS: Final = "model_not_supported"
#: The same of parameters: one that there is not, and one that there is at OpenAI and not here.
UNKNOWN: Final = "unknown_parameter"
UNSUPPORTED: Final = "unsupported_parameter"


class ParameterError(BadRequestError):
    """A request that cannot be understood, or cannot be done.

    Args:
        param: what is wrong with it; None for the whole.
        message: for the client.
        code: by which programs tell it; None for any wrong value.
    """

    def __init__(self, param: str | None, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class FormedError(FrontendError):
    """Any error, in OpenAI's form."""

    def __init__(self, error: FrontendError) -> None:
        super().__init__(error.message, headers=error.headers)
        self.status = error.status
        param, code = None, None
        if isinstance(error, InvalidKeyError):
            # TorchServe says 400; by this status clients know that it is the key.
            self.status, code = 401, "invalid_api_key"
            self.headers = {**error.headers, "WWW-Authenticate": "Bearer"}
        elif isinstance(error, ModelNotFoundError | VersionNotFoundError):
            param, code = "model", "model_not_found"
        elif isinstance(error, ParameterError):
            param, code = error.param, error.code
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        self._about = {"message": error.message, "type": kind, "param": param, "code": code}

    @property
    def document(self) -> dict[str, Any]:
        """The body of the response, in JSON."""
        return {"error": self._about}
