"""The connection to a worker, in each event loop that a server may have."""

from __future__ import annotations

import asyncio
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


def _short(factory: pytest.TempPathFactory) -> Path:
    path = factory.mktemp("l") / "s"
    assert len(str(path)) < 100
    return path
