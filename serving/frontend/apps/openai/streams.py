"""Several streams as one, in the order in which their items come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

#: Items that are there before their reader has come to them.
_AHEAD: Final = 16


async def merged(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Give what several streams give; the first failure of one is that of all, and who leaves it leaves them all."""
    if len(sources) == 1:
        async with contextlib.aclosing(sources[0]) as only:
            async for item in only:
                yield item
        return
    # An item alone, the end of a stream without one, or the failure of one.
    come: asyncio.Queue[tuple[T] | tuple[()] | Exception] = asyncio.Queue(_AHEAD)

    async def read(source: AsyncGenerator[T, None]) -> None:
        try:
            async with contextlib.aclosing(source):
                async for item in source:
                    await come.put((item,))
        except Exception as error:
            await come.put(error)
        else:
            await come.put(())

    tasks = [asyncio.ensure_future(read(source)) for source in sources]
    try:
        left = len(tasks)
        while left:
            found = await come.get()
            if isinstance(found, Exception):
                raise found
            if found:
                yield found[0]
            else:
                left -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
