"""Several streams as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from serving.frontend.apps.openai.streams import merged


class Source:
    def __init__(self, *items: int, fails: bool = False, endless: bool = False) -> None:
        self.items, self.fails, self.endless, self.closed = items, fails, endless, False

    async def stream(self) -> AsyncGenerator[int, None]:
        try:
            for item in self.items:
                await asyncio.sleep(0)
                yield item
            if self.fails:
                raise ValueError("it broke")
            if self.endless:
                await asyncio.sleep(60)
        finally:
            self.closed = True


@pytest.mark.parametrize("count", [1, 3])
def test_all_items_come_and_all_streams_end(count: int) -> None:
    sources = [Source(*range(10 * n, 10 * n + 10)) for n in range(count)]

    async def run() -> list[int]:
        return [item async for item in merged([source.stream() for source in sources])]

    found = asyncio.run(run())
    assert sorted(found) == list(range(10 * count))
    for n in range(count):
        assert [item for item in found if item // 10 == n] == list(range(10 * n, 10 * n + 10))
    assert all(source.closed for source in sources)


def test_a_failure_is_that_of_all() -> None:
    sources = [Source(1, fails=True), Source(endless=True), Source(*range(100), endless=True)]

    async def run() -> None:
        async for _ in merged([source.stream() for source in sources]):
            pass

    with pytest.raises(ValueError, match="it broke"):
        asyncio.run(run())
    assert all(source.closed for source in sources)


@pytest.mark.parametrize("count", [1, 2])
def test_who_leaves_it_leaves_all(count: int) -> None:
    sources = [Source(*range(100), endless=True) for _ in range(count)]

    async def run() -> None:
        async with contextlib.aclosing(merged([source.stream() for source in sources])) as all_:
            assert await anext(all_) == 0

    asyncio.run(run())
    assert all(source.closed for source in sources)
