"""Statuses and their texts."""

from __future__ import annotations

import grpc
import pytest

from serving.frontend.errors import (
    BadRequestError,
    DeadlineError,
    FrontendError,
    InternalError,
    ModelError,
    ModelNotFoundError,
    UnavailableError,
    VersionNotFoundError,
)
from serving.frontend.grpc.statuses import code_of, failure, inference_refusal, missing, refusal

HTTP = "org.pytorch.serve.http"
MODEL = "org.pytorch.serve.archive.model"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (404, "NOT_FOUND"),
        (408, "FAILED_PRECONDITION"),
        (413, "RESOURCE_EXHAUSTED"),
        (418, "FAILED_PRECONDITION"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (507, "INTERNAL"),
        (600, "UNKNOWN"),
        (999, "UNKNOWN"),
    ],
)
def test_every_http_status_has_one(status: int, code: str) -> None:
    assert code_of(status) == grpc.StatusCode[code]


@pytest.mark.parametrize(
    ("error", "managed", "asked", "reason"),
    [
        (ModelNotFoundError("m"), "NOT_FOUND", "INTERNAL", f"{MODEL}.ModelNotFoundException"),
        (VersionNotFoundError("m"), "NOT_FOUND", "INTERNAL", f"{MODEL}.ModelVersionNotFoundException"),
        (ModelError("m"), "INVALID_ARGUMENT", "INVALID_ARGUMENT", f"{MODEL}.ModelException"),
        (BadRequestError("m"), "INVALID_ARGUMENT", "INVALID_ARGUMENT", f"{HTTP}.BadRequestException"),
        (InternalError("m", status=507), "INTERNAL", "INTERNAL", f"{HTTP}.InternalServerException"),
        (DeadlineError("m"), "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", f"{HTTP}.DeadlineExceededException"),
    ],
)
def test_the_apis_tell_an_error_each_in_its_way(error: FrontendError, managed: str, asked: str, reason: str) -> None:
    assert (refusal(error).code.name, inference_refusal(error).code.name) == (managed, asked)
    assert refusal(error).text == inference_refusal(error).text == f"m\n{reason}"


def test_what_has_no_worker_is_internal_as_in_torchserve() -> None:
    told = inference_refusal(UnavailableError("no worker"))
    assert (told.code.name, told.text) == ("INTERNAL", "no worker\nInternalServerException.()")
    assert missing("model_name").text == "Parameter model_name is required.\nBadRequestException.()"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"code": 404, "type": "x", "message": "not there"}', "not there"),
        (
            b'{"outputs": [{"name": "error", "datatype": "BYTES", "shape": [1], "data": ["wrong shape"]}]}',
            "wrong shape",
        ),
        (b'{"outputs": [{"name": "y", "data": [1]}]}', '{"outputs": [{"name": "y", "data": [1]}]}'),
        (b"none", "none"),
        (b"[1]", "[1]"),
        (b"\xff", "\ufffd"),
        (b"[" * 100_000, "[" * 100_000),
        (b"", ""),
    ],
)
def test_an_answer_that_is_an_error_tells_why(body: bytes, text: str) -> None:
    error = failure(404, body)
    assert (error.status, error.message) == (404, text)


def test_a_text_fits_into_the_trailers() -> None:
    text = refusal(InternalError("ü" * 5_000)).text
    assert len(text.encode()) < 2_100
    assert text.startswith("üü")
    assert text.endswith("\norg.pytorch.serve.http.InternalServerException")
