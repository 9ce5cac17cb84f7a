"""mosec with one stage: ``python -m benchmarks.serving_bench.peers.mosec_app``, in the peers' environment."""

from __future__ import annotations

from mosec import Server, Worker

from benchmarks.serving_bench.peers.model import Model, options


class Predictor(Worker):
    """The model in a process of its own; bodies and answers are passed as they are."""

    def __init__(self) -> None:
        super().__init__()
        told = options()
        self._model = Model(told.folder, told.bodies)

    def deserialize(self, data: bytes) -> bytes:
        """Return a body."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Return an answer."""
        return data

    def forward(self, data: list[bytes] | bytes) -> list[bytes] | bytes:
        """Return the answers to a batch; mosec passes no list where batches may not be larger than one."""
        return self._model.answers(data) if isinstance(data, list) else self._model.answers([data])[0]


def main() -> None:
    """Serve until told to end."""
    told = options()
    server = Server()
    # No wait, as in --wait 0, can only be said on its command line, which it reads itself.
    server.append_worker(
        Predictor, num=told.workers, max_batch_size=told.batch, max_wait_time=told.wait, route=told.route
    )
    server.run()


if __name__ == "__main__":
    main()
