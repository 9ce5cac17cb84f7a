"""What a replica tells the application that answers all else: the begin of an answer, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serving.frontend.engine import Answer
from serving.frontend.errors import FrontendError


def answered(answer: Answer) -> Mapping[str, Any]:
    """Write an answer, without its rest, so that another process can read it."""
    return {"answer": replace(answer, body=bytes(answer.body), rest=None), "streams": answer.rest is not None}


def failed(error: FrontendError) -> Mapping[str, Any]:
    """Write an error so that another process can read it."""
    return {"error": type(error), "message": error.message, "status": error.status, "headers": error.headers}


def error_of(item: Mapping[str, Any]) -> FrontendError:
    """Read an error that another process has written."""
    error: FrontendError = item["error"](item["message"])
    error.status, error.headers = item["status"], item["headers"]
    return error
