"""The connection to a worker, in each event loop that a server may have."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.frontend.local.link import Link
from serving.protocol import PredictionItem, Reply, encode_reply

_LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
try:
    import uvloop
except ImportError:
    pass
else:
    _LOOPS.append(uvloop.new_event_loop)


@pytest.mark.parametrize("new_loop", _LOOPS)
@pytest.mark.parametrize("size", [0, 100, 150_000, 3_000_000])
def test_answers_of_any_size_come_whole(
    new_loop: Callable[[], asyncio.AbstractEventLoop], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bodies = [bytes([number]) * size for number in range(3)]
    path = _short(tmp_path_factory)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        received: asyncio.Queue[bytes] = asyncio.Queue()
        gone = asyncio.Event()
        lost: asyncio.Future[Exception | None] = loop.create_future()

        async def worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for number, body in enumerate(bodies):
                writer.write(encode_reply(Reply(200, "", (PredictionItem(f"id-{number}", body),))))
            await writer.drain()
            await reader.read()
            writer.close()
            await writer.wait_closed()
            gone.set()

        def replied(reply: Reply) -> None:
            received.put_nowait(bytes(reply.items[0].body))

        server = await asyncio.start_unix_server(worker, str(path))
        _, link = await loop.create_unix_connection(lambda: Link(6_553_500, replied, lost.set_result), str(path))
        assert [await asyncio.wait_for(received.get(), 30) for _ in bodies] == bodies
        assert not lost.done()
        link.close()
        assert lost.result() is None
        await asyncio.wait_for(gone.wait(), 30)
        server.close()
        await server.wait_closed()

    loop = new_loop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()


@pytest.mark.parametrize("new_loop", _LOOPS)
def test_what_a_connection_held_goes_with_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Not only when the garbage collector comes, which is seldom, while workers may die all the time."""
    path = _short(tmp_path_factory)
    held: list[weakref.ref[object]] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[Exception | None] = loop.create_future()

        async def worker(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(encode_reply(Reply(200, "", (PredictionItem("id", b"x" * 1000),)))[:500])
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_unix_server(worker, str(path))
        _, link = await loop.create_unix_connection(lambda: Link(6_553_500, print, lost.set_result), str(path))
        held.append(weakref.ref(link._decoder))
        assert await lost is None
        server.close()
        await server.wait_closed()

    gc.disable()
    try:
        loop = new_loop()
        loop.run_until_complete(work())
        loop.close()
        assert held[0]() is None
    finally:
        gc.enable()
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def _short(factory: pytest.TempPathFactory) -> Path:
    path = factory.mktemp("l") / "s"
    assert len(str(path)) < 100
    return path
