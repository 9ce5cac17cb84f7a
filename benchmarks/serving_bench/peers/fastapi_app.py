"""FastAPI with the model in its event loop: ``python -m benchmarks.serving_bench.peers.fastapi_app``.

In the peers' environment. While the model computes, the loop does nothing else: no thread, no batches. That is the
least that can stand between a request and the model.
"""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.serving_bench.peers.model import Model, options


def main() -> None:
    """Serve until told to end."""
    told = options()
    model = Model(told.folder, told.bodies)

    async def predict(request: Request) -> Response:
        return Response(model.answers([await request.body()])[0])

    app = FastAPI()
    app.add_api_route(told.route, predict, methods=["POST"])
    # Both by name: where one is missing this fails, it does not fall back.
    uvicorn.run(app, port=told.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
