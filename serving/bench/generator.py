"""``python -m serving.bench.generator``: a load, in a process that does nothing else.

It reads the load as one line of JSON from its standard input and writes a line for each second and one of the figures.
When its standard input ends it stops, and says what it has. It is killed when who started it ends, whose process id is
its argument: one that is stopped reads no end of its input.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from serving import descriptors, parent
from serving.bench.loads import Load
from serving.bench.wire.sending import Sending

#: Keys of the lines.
SECOND, FIGURES = "second", "figures"


def main() -> int:
    """Send the load that standard input names."""
    if sys.platform == "linux":
        parent.ends_with_parent(signal.SIGKILL, int(sys.argv[1]))()
    load = Load.from_json(sys.stdin.buffer.readline())
    descriptors.allow()
    gc.freeze()  # what is there stays
    try:
        import uvloop
    except ImportError:
        asyncio.run(_send(load))
    else:
        uvloop.run(_send(load))
    return 0


async def _send(load: Load) -> None:
    sending = Sending(load, lambda second: _write({SECOND: asdict(second)}))

    class Told(asyncio.Protocol):
        """Who stops the load when nobody is there any more."""

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
            sending.stop()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_fail)
    await loop.connect_read_pipe(Told, sys.stdin)
    figures = await sending.run()
    _write({FIGURES: figures.document()})


def _fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End at a mistake of ours: figures without what it swallowed would be wrong."""
    print(context["message"], repr(context.get("exception")), file=sys.stderr, flush=True)
    os._exit(1)


def _write(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    sys.exit(main())
