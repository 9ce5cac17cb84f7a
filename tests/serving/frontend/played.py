"""A played engine and tiny applications in the place of the real ones, for tests of what stands around them.

Run as a program it is a server of them: ``python -m tests.serving.frontend.played --config ...``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, cast

from serving.frontend import __main__ as program
from serving.frontend.assembly import Parts, Startup
from serving.frontend.engine import Engine
from serving.frontend.entrance import App, Receive, Scope, Send
from serving.frontend.settings import Settings


class PlayedEngine:
    """Writes down what it is told; beginning and draining take as long as a file is there, ``begin`` or ``drain``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.draining = False

    def tell(self, text: str) -> None:
        with (self._folder / "told.log").open("a") as file:
            file.write(f"{text}\n")

    async def begin(self, startup: Startup) -> None:
        self.tell(f"begins with {[str(model) for model in startup.models]} {startup.load_all} {startup.snapshots}")
        await self.while_there("begin")

    async def drain(self, grace_s: float) -> None:
        self.tell(f"drains, {grace_s:.0f} s")
        self.draining = True
        await self.while_there("drain")
        self.tell("drained")

    async def while_there(self, name: str) -> None:
        while (self._folder / name).exists():
            await asyncio.sleep(0.02)


def played_app(name: str, engine: PlayedEngine) -> App:
    """Make an application that takes as long as a request says, ``?s=0.5``, and answers with what it got.

    With ``?while=NAME`` it waits as long as the file is there, with ``?parts=N`` it streams, with ``?unread`` it
    answers at once.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        query = dict(item.partition("=")[::2] for item in scope["query_string"].decode().split("&"))
        body = bytearray()
        while "unread" not in query:
            message = await receive()
            if message["type"] == "http.disconnect":
                engine.tell(f"a client of {scope['path']} has gone")
                return
            body += message["body"]
            if not message["more_body"]:
                break
        await asyncio.sleep(float(query.get("s", "0")))
        if "while" in query:
            await engine.while_there(query["while"])
        if scope["path"] == "/crash":
            raise RuntimeError("this application has crashed")
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 503 if engine.draining else 200, "headers": headers})
        for _ in range(int(query.get("parts", "0"))):
            await send({"type": "http.response.body", "body": b" " * int(query.get("size", "1")), "more_body": True})
            await asyncio.sleep(float(query.get("pause", "0")))
        answer = {"app": name, "path": scope["path"], "body": body.decode("latin-1"), "scheme": scope["scheme"]}
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return app


def played_parts(settings: Settings, startup: Startup) -> Parts:
    """Make the parts of a server, none of them real."""
    engine = PlayedEngine(settings.place.runtime)
    names: Any = ["inference", "management", *(["metrics"] if settings.enable_metrics_api else [])]
    apps = {name: played_app(name, engine) for name in names}
    return Parts(cast("Engine", engine), apps, lambda: engine.begin(startup))


if __name__ == "__main__":
    began = time.monotonic()
    code = program.main(assembled=played_parts)
    sys.stderr.write(f"ended after {time.monotonic() - began:.1f} s\n")
    sys.exit(code)
