"""What is sent to a model."""

from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.datastructures import FormData, UploadFile

from archive_tool.metadata.record import Sample
from serving.frontend.apps.console.given import Given, given
from serving.frontend.errors import BadRequestError


@pytest.mark.parametrize(
    ("kind", "sent"), [("text/x", "text/x"), ("text/x\r\nhost: other", ""), ("text/\u00e9", ""), (None, "")]
)
def test_a_samples_type_can_stand_in_a_header(kind: str | None, sent: str) -> None:
    class Archives:
        async def sample(self, url: str, number: int) -> tuple[Sample, bytes]:
            assert (url, number) == ("m.mar", 3)
            return Sample(input="samples/a.bin", content_type=kind), b"1"

    one = cast("Any", SimpleNamespace(of=SimpleNamespace(url="m.mar")))
    found = asyncio.run(given(cast("Any", Archives()), one, FormData([("sample", "3")])))
    assert (found.body, found.content_type, found.file) == (b"1", sent, "a.bin")


def asked(**fields: str | UploadFile) -> Given:
    return asyncio.run(given(cast("Any", None), cast("Any", None), FormData(list(fields.items()))))


@pytest.mark.parametrize("kind", ["text/x\r\nhost: other", "text/\u00e9", "text/\x00"])
def test_a_type_that_cannot_stand_in_a_header_is_refused(kind: str) -> None:
    with pytest.raises(BadRequestError, match="content type: write printable ASCII, such as text/plain"):
        asked(text="hello", kind=kind)
    assert asked(text="hello", kind=" text/x ").content_type == "text/x"
    assert asked(text="hello", kind=" ").content_type == "text/plain"


@pytest.mark.parametrize("name", ["data:text/\u00e9,x", "data:text/evil,x"])
def test_the_name_of_a_file_says_no_type_itself(name: str) -> None:
    assert asked(file=UploadFile(io.BytesIO(b"1"), filename=name)).content_type == "application/octet-stream"
