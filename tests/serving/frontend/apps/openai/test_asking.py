"""Server-sent events, however they are cut into parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.apps.openai.asking import all_of, events
from serving.frontend.errors import InternalError


def read(data: bytes, cuts: list[int] | None = None, most: int = 1000) -> list[Any]:
    async def parts() -> AsyncIterator[bytes]:
        begin = 0
        for cut in sorted(cuts or []):
            yield data[begin:cut]
            begin = max(begin, cut)
        yield data[begin:]

    async def run() -> list[Any]:
        return [event async for event in events(parts(), most)]

    return asyncio.run(run())


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers(), max_size=3), max_size=5), st.data())
def test_events_are_whole_wherever_their_parts_end(documents: list[Any], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    text = b"".join(b"data: " + json.dumps(one).encode() + end + end for one in documents)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert read(text, cuts, most=10_000) == documents


def test_comments_names_and_the_end_mark_are_no_events() -> None:
    text = b': hello\n\nevent: token\nid: 4\ndata: [1,\ndata: 2]\n\ndata: [DONE]\n\n\n\ndata: "last"'
    assert read(text) == [[1, 2], "last"]


def test_an_event_is_bounded() -> None:
    with pytest.raises(InternalError, match="more than 100 bytes"):
        read(b"data: " + b"x" * 500, [10, 60, 200], most=100)


def test_an_event_that_is_not_json_is_an_error() -> None:
    with pytest.raises(InternalError, match="is not JSON"):
        read(b"data: {nope\n\n")


def test_the_first_failure_of_several_stops_the_others() -> None:
    stopped = []

    async def endless() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(True)
        return 1

    async def failing() -> int:
        await asyncio.sleep(0)
        raise InternalError("no")

    async def run() -> None:
        await all_of([endless, failing, endless])

    with pytest.raises(InternalError):
        asyncio.run(run())
    assert stopped == [True, True]
