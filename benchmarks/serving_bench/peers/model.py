"""The model of a peer: the handler of an archive, called as TorchServe's worker would."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving_bench import bare
from serving.worker.answering.bodies import encode

_TRIAL_S = 0.3


def options() -> argparse.Namespace:
    """Return what the peer's program was told; mosec reads more of the same command line."""
    parser = argparse.ArgumentParser(description="A peer's server for one model.", allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--route", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait", type=int, required=True, help="milliseconds for a batch to fill")
    parser.add_argument("--folder", type=Path, required=True, help="an extracted archive")
    parser.add_argument("--bodies", type=Path, nargs="+", required=True, help="to find the number of threads with")
    return parser.parse_known_args()[0]


class Model:
    """A loaded handler, with the better of one torch thread and torch's default, as our worker finds it for itself."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        import torch

        self._service = bare.load(folder)
        bodies = [path.read_bytes() for path in files]
        rates = {}
        for threads in (torch.get_num_threads(), 1):
            torch.set_num_threads(threads)
            rates[threads] = bare.rate(self._service, bodies, 1, _TRIAL_S)
        torch.set_num_threads(max(rates, key=lambda threads: rates[threads]))

    def answers(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Return the answers to a batch, in the bytes that a client of our server would get.

        Raises:
            RuntimeError: the handler refused a request.
        """
        return [bytes(encode(value)) for value in bare.call(self._service, iter(bodies), len(bodies))]
