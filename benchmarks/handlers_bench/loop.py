"""An archive's image classifier without any server, in a process of its own: the limit, and where its time goes.

``python loop.py --kind ours --batches 1,8,32 --seconds 1 model.mar a.jpg ...`` loads TorchServe's handler or ours with
the archive's model-config.yaml, calls it with batches of the files, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

_WARM_UP = 0.3  # of the time
_PROFILED = 24  # images
STAGES = ("decode", "resize", "normalise", "model", "answer")


@dataclass(frozen=True)
class Loop:
    """The figures of one contender's loop.

    Attributes:
        handler: images a second from JPEG to answer, by batch size.
        model: images a second of the model alone, in the same calls of the handler: their time in `inference`.
        stages: milliseconds for one image in a batch of one, by `STAGES`.
        device: where the model was.
    """

    handler: dict[int, float]
    model: dict[int, float]
    stages: dict[str, float]
    device: str

    @classmethod
    def read(cls, text: str) -> Loop:
        """Parse the line that this script prints."""
        found = json.loads(text)
        for name in ("handler", "model"):
            found[name] = {int(batch): rate for batch, rate in found[name].items()}
        return cls(**found)


def measure(archive: Path, kind: str, bodies: Sequence[Path], batches: Sequence[int], seconds: float) -> Loop:
    """Measure one contender's loop, in a process of its own.

    Args:
        archive: of the contender, with its model-config.yaml.
        kind: ``stock`` or ``ours``.
        seconds: of each measurement.

    Raises:
        RuntimeError: the process failed.
    """
    options = ["--kind", kind, "--batches", ",".join(map(str, batches)), "--seconds", str(seconds)]
    command = [sys.executable, __file__, *options, str(archive), *map(str, bodies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        raise RuntimeError(f"the handler's loop failed: {done.stderr[-800:]}")
    return Loop.read(done.stdout.strip().splitlines()[-1])


class _Quiet:
    """Metrics that are not read."""

    def add_time(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


def load(folder: Path, kind: str) -> tuple[Any, Any]:
    """Return the handler with the model of an extracted archive, and its context."""
    import torch
    import yaml
    from ts.context import Context

    if kind == "stock":
        from ts.torch_handler.image_classifier import ImageClassifier
    else:
        from handlers import ImageClassifier
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
    file = manifest["model"].get("configFile")
    config = yaml.safe_load((folder / file).read_text(encoding="utf-8")) if file else {}
    gpu = 0 if torch.cuda.is_available() else None
    context = Context("model", str(folder), manifest, 1, gpu, "0.12.0", True, _Quiet(), config)
    handler = ImageClassifier()
    handler.initialize(context)
    return handler, context


def answer(handler: Any, context: Any, bodies: Sequence[bytes]) -> None:
    """Answer one batch, with the request objects that a worker makes for it.

    Raises:
        RuntimeError: the handler refused a request.
    """
    from ts.context import RequestProcessor

    context.request_ids = {number: str(number) for number in range(len(bodies))}
    context.request_processor = [RequestProcessor({}) for _ in bodies]
    answers = handler.handle([{"body": bytearray(body)} for body in bodies], context)
    if len(answers) != len(bodies) or any(one.get_response_status_code() != 200 for one in context.request_processor):
        raise RuntimeError(f"the handler refused a request: {answers}")


def repeat(call: Callable[[], int], seconds: float) -> tuple[int, float]:
    """Call a function, which answers some images, for so long, at least once; return their number and the seconds."""
    count, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds or not count:
        count += call()
    return count, elapsed


@contextmanager
def model_timed(handler: Any) -> Iterator[list[float]]:
    """Note the seconds of every call of the model that the handler itself makes.

    These are the calls that are served: their input, their thread and torch's state decide which compiled code runs.
    Calls from outside can be of other code, and whatever else the machine does in their time is theirs alone.
    """
    inference, spans = handler.inference, []

    def timed(*inputs: Any, **named: Any) -> Any:
        _wait(handler.device)
        begin = time.perf_counter()
        output = inference(*inputs, **named)
        _wait(handler.device)
        spans.append(time.perf_counter() - begin)
        return output

    handler.inference = timed
    try:
        yield spans
    finally:
        del handler.inference


def stages(handler: Any, bodies: Sequence[bytes]) -> dict[str, float]:
    """Return the milliseconds of each stage for one image: the median over some."""
    import statistics

    from PIL import Image
    from torchvision import transforms

    from handlers.vision import decoding

    def decoded(body: bytes) -> Image.Image:
        if type(handler).__module__.startswith("handlers."):
            return decoding.convert(decoding.decode_image(body), "RGB")
        return Image.open(_stream(body))  # TorchServe's decodes when it resizes

    fit = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    taken: dict[str, list[float]] = {name: [] for name in STAGES}
    for body in bodies[:_PROFILED]:
        marks = [time.perf_counter()]
        picture = decoded(body)
        picture.load()
        marks.append(time.perf_counter())
        fit(picture)
        marks.append(time.perf_counter())
        tensor = handler.image_processing(picture)
        marks.append(time.perf_counter())
        output = handler.inference(tensor[None].to(handler.device))
        _wait(handler.device)
        marks.append(time.perf_counter())
        handler.postprocess(output)
        marks.append(time.perf_counter())
        spans = [1e3 * (after - before) for before, after in itertools.pairwise(marks)]
        spans[2] = max(0.0, spans[2] - spans[1])  # the processing begins with the resizing
        for name, span in zip(STAGES, spans, strict=True):
            taken[name].append(span)
    return {name: statistics.median(spans) for name, spans in taken.items()}


def _stream(body: bytes) -> Any:
    import io

    return io.BytesIO(body)


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run(handler: Any, context: Any, bodies: Sequence[bytes], batches: Sequence[int], seconds: float) -> Loop:
    """Measure the loops and the stages."""
    turn: Iterator[bytes] = itertools.cycle(bodies)
    of_handler, of_model = {}, {}

    def whole(batch: int) -> int:
        answer(handler, context, list(itertools.islice(turn, batch)))
        return batch

    with model_timed(handler) as spans:
        for batch in batches:
            repeat(partial(whole, batch), seconds * _WARM_UP)
            spans.clear()
            count, elapsed = repeat(partial(whole, batch), seconds)
            of_handler[batch], of_model[batch] = count / elapsed, count / sum(spans)
    return Loop(of_handler, of_model, stages(handler, bodies), str(handler.device))


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="An archive's image classifier without a server.")
    parser.add_argument("--kind", choices=["stock", "ours"], default="ours")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each batch size")
    parser.add_argument("archive", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()

    # Not this script's own folder: an archive's files may have the names of its neighbours.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    warnings.simplefilter("ignore")  # of TorchServe's package and of compilers
    from archive_tool import open_archive

    bodies = [path.read_bytes() for path in options.files]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        with open_archive(options.archive) as archive:
            archive.extract(folder)
        sys.path.insert(0, str(folder))
        handler, context = load(folder, options.kind)
        found = run(handler, context, bodies, [int(text) for text in options.batches.split(",")], options.seconds)
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
