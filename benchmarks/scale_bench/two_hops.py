"""What users of Ray Serve write by hand: ``python -m benchmarks.scale_bench.two_hops``.

A deployment takes HTTP, and asks the model's deployment through its handle. The handler and the weights are those of
the archive. Ray is as it comes, but for more logical processors than the machine may have: each replica needs one.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.scale_bench.patience import begun


class Predictor:
    """The model: one request, one call."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        from benchmarks.serving_bench.peers.model import Model

        self._model = Model(folder, files)

    async def __call__(self, body: bytes) -> bytes:
        """Return the answer to a body. As in an event loop of anybody's, nothing else runs meanwhile."""
        return self._model.answers([body])[0]


class Router:
    """What takes HTTP."""

    def __init__(self, model: Any) -> None:
        self._model = model

    async def __call__(self, request: Request) -> Response:
        """Return the model's answer."""
        return Response(await self._model.remote(await request.body()))


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="One model behind a router on Ray Serve.", allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--route", required=True)
    parser.add_argument("--replicas", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="an extracted archive")
    parser.add_argument("--bodies", type=Path, nargs="+", required=True, help="to find the number of threads with")
    return parser.parse_args()


def main() -> None:
    """Serve until told to end."""
    told = options()
    begun(lambda: ray.init(address="local", num_cpus=told.replicas + 1, log_to_driver=False))
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": told.port})
        model = serve.deployment(Predictor).options(num_replicas=told.replicas).bind(told.folder, told.bodies)
        serve.run(serve.deployment(Router).bind(model), route_prefix=told.route)
        threading.Event().wait()  # until SIGTERM, of which Ray makes an exit
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
