"""What is sent to a model."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.datastructures import FormData

from archive_tool.metadata.record import Sample
from serving.frontend.apps.console.given import given


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
