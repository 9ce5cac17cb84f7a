"""The handler of an archive without any server, in a process of its own: the limit of what a server can reach.

``python bare.py --batches 1,8,32 --threads 1 --seconds 1 model.mar digit.png ...`` loads the handler as TorchServe's
worker does, calls it with batches of the files, and prints one line of JSON: items a second by batch size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

READY = "ready"
_WARM_UP = 0.3  # of the time


def measure(
    archive: Path, bodies: Sequence[Path], batches: Sequence[int], threads: int, seconds: float
) -> dict[int, float]:
    """Measure items a second by batch size, in a process of its own. No threads means torch's default.

    Raises:
        RuntimeError: the process failed.
    """
    options = ["--batches", ",".join(map(str, batches)), "--threads", str(threads), "--seconds", str(seconds)]
    command = [sys.executable, __file__, *options, str(archive), *map(str, bodies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the bare handler failed: {done.stderr[-800:]}")
    return {int(batch): rate for batch, rate in json.loads(done.stdout.splitlines()[-1]).items()}


def load(folder: Path) -> Any:
    """Return the service of an extracted archive, as TorchServe's own loader makes it."""
    from ts.model_loader import TsModelLoader

    sys.path.insert(0, str(folder))
    entry = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
    return TsModelLoader().load(entry["modelName"], str(folder), entry["handler"], None, 1, None, True, None)


def call(service: Any, bodies: Iterator[bytes], batch: int) -> list[Any]:
    """Return the handler's answers to one batch, with the request objects that a worker makes for it.

    Raises:
        RuntimeError: the handler refused a request.
    """
    from ts.context import RequestProcessor

    rows = [{"body": bytearray(next(bodies))} for _ in range(batch)]
    context = service.context
    context.request_ids = {number: str(number) for number in range(batch)}
    context.request_processor = [RequestProcessor({}) for _ in rows]
    answers: list[Any] = service._entry_point(rows, context)
    if len(answers) != batch or any(
        processor.get_response_status_code() != 200 for processor in context.request_processor
    ):
        raise RuntimeError(f"the handler refused a request: {answers}")
    return answers


def rate(service: Any, bodies: Sequence[bytes], batch: int, seconds: float) -> float:
    """Return the items a second."""
    turn = itertools.cycle(bodies)
    found = 0.0
    for duration in (seconds * _WARM_UP, seconds):
        count, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < duration or not count:
            call(service, turn, batch)
            count += batch
        found = count / elapsed
    return found


def main() -> int:
    """Print the rates."""
    parser = argparse.ArgumentParser(description="An archive's handler without a server.")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--threads", type=int, default=0, help="of torch within an operation; 0 is its own default")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each batch size")
    parser.add_argument("--at-a-line", action="store_true", help=f"say {READY}, and begin at a line of standard input")
    parser.add_argument("archive", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()

    # Not this script's own folder: an archive's files may have the names of its neighbours.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import torch

    from archive_tool import open_archive

    if options.threads:
        torch.set_num_threads(options.threads)
    bodies = [path.read_bytes() for path in options.files]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        with open_archive(options.archive) as archive:
            archive.extract(folder)
        service = load(folder)
        if options.at_a_line:  # of several processes none measures while another one loads
            print(READY, flush=True)
            sys.stdin.readline()
        rates = {batch: rate(service, bodies, batch, options.seconds) for batch in map(int, options.batches.split(","))}
    print(json.dumps(rates))
    return 0


if __name__ == "__main__":
    sys.exit(main())
