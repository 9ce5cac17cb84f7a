"""Workers in the frontend's asynchronous mode, and their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.protocol import PredictionItem, Reply
from tests.serving.worker.frontend import Server, Worker, archive, rest

NEXT = "ts_stream_next"
IMPORTS = """
import asyncio
import json
import os
import sys
import threading
import time

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.service import PredictionException

def part(context, text):
    send_intermediate_predict_response([text], context.request_ids, "part", 200, context)
"""
#: A handler that does what a request wishes, and takes its time.
SLOW = """
class Handler:
    def initialize(self, context):
        self.cancelled = []

    async def handle(self, data, context):
        wish = bytes(data[0]["body"]).decode()
        if wish == "cancelled":
            return [" ".join(self.cancelled)]
        if wish == "parts":
            for _ in range(4):
                await asyncio.sleep(0.5)
                part(context, ".")
            return ["end"]
        if wish == "part":
            part(context, "one")
        if wish == "block":
            time.sleep(600)
        try:
            await self.hang(wish)
        finally:
            self.cancelled.append(wish)
            if wish == "part":
                part(context, "late")
        return ["late"]

    async def hang(self, wish):
        await asyncio.sleep(600)
"""


def load(server: Server, folder: Path, source: str, **config: Any) -> Worker:
    """Return a worker that has loaded a handler."""
    settings = {"asyncCommunication": True, **config}
    worker = server.worker(archive(folder / "model", IMPORTS + source, config=settings))
    reply = worker.load(folder / "model", batch_size=1)
    assert reply == Reply(200, "loaded model model"), worker.out.text
    return worker


def answers(worker: Worker, count: int) -> dict[str, list[PredictionItem]]:
    """Return what comes until so many requests have their answer, by request."""
    found: dict[str, list[PredictionItem]] = {}
    while count:
        reply = worker.reply()
        assert reply.code == 200
        for item in reply.items:
            found.setdefault(item.request_id, []).append(item)
            count -= item.headers.get(NEXT) == "false"
    return found


def answer(worker: Worker, body: bytes = b"") -> bytes:
    """Return the body of the answer to a request over HTTP, which is not streamed."""
    worker.send(rest("1", body))
    item, _ = answers(worker, 1)["1"]
    return bytes(item.body)


def error(item: PredictionItem) -> tuple[int, str]:
    """Return status and message of a failure, which looks as the frontend would write it."""
    content = json.loads(bytes(item.body))
    assert content["code"] == item.status
    assert item.content_type == "application/json"
    return item.status, content["message"]
