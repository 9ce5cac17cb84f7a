"""Prediction in this process: frames as the frontend sends them through the worker's own code."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from archive_tool.config import effective
from archive_tool.errors import InputError
from archive_tool.metadata.manifest import Manifest
from archive_tool.reading.archive import open_archive
from archive_tool.verification.extraction import extract
from serving.answers import decode
from serving.check import Input
from serving.check.answers import Answer, Answers
from serving.check.run import device_index, read_config, refuse_unservable
from serving.control.configuration.workers import module_folder
from serving.errors import CheckError
from serving.local.debugger import debugger
from serving.local.model import LocalModel
from serving.local.profile import Row, Stopwatch, check_trace, rows, trace
from serving.local.surroundings import surroundings
from serving.protocol import Load, Request
from serving.worker.answering.warm_up import request_of

_CONTENT_TYPE = "content-type"


@dataclass(frozen=True)
class RunOptions:
    """What to predict, and how.

    Attributes:
        archive: a .mar, a .tar.gz, or a folder, which is taken where it is.
        inputs: one request each; at least one.
        headers: of every request.
        device: "cpu" or "cuda:N".
        batch: requests that go together. What a batch lacks is filled with the inputs again, from the first.
        repeat: how often a batch that went well is sent again.
        profile: measure the steps of the handler.
        trace: where to write a Chrome trace of one further run; None for none.
        allow_pickles: names of members that may run code when they are loaded.
    """

    archive: Path
    inputs: tuple[Input, ...]
    headers: tuple[tuple[str, str], ...] = ()
    device: str = "cpu"
    batch: int = 1
    repeat: int = 0
    profile: bool = False
    trace: Path | None = None
    allow_pickles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """The answer to an input, as a client of the REST API gets it.

    Attributes:
        seconds: until the answer to its batch, the first time.
    """

    name: str
    status: int
    body: bytes
    content_type: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the status is not an error."""
        return _is_good(self.status)

    @property
    def message(self) -> str:
        """Text of an answer that is an error."""
        content = decode(self.body)
        if isinstance(content, dict) and isinstance(content.get("message"), str):
            return str(content["message"])
        return self.body[:500].decode("utf-8", "replace")


@dataclass
class Timing:
    """How long a batch took.

    Attributes:
        names: of its inputs.
        seconds: of the first run and the further ones.
        rows: by step; empty if that was not asked for.
    """

    names: tuple[str, ...]
    seconds: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def run(options: RunOptions, tell: Callable[[Answered], None]) -> list[Timing]:
    """Load a model and send it the inputs; report every answer as soon as it is there.

    Returns:
        The times of each batch.

    Raises:
        ModelLoadError: the model cannot be loaded.
        CheckError: the worker would break the frontend's protocol.
        ArchiveError: the archive cannot be read, or is not safe to unpack.
        InputError: it cannot be run here.
    """
    gpu = device_index(options.device)
    if options.trace is not None:
        check_trace(options.trace)
    with opened(options.archive, options.allow_pickles) as (folder, manifest, config):
        stopwatch = Stopwatch()
        with surroundings(folder, module_folder(manifest.model.handler)), debugger():
            load = Load(
                model_name=manifest.model.model_name,
                model_path=str(folder),
                batch_size=max(options.batch, int(config.value("batchSize") or 1)),
                handler=manifest.model.handler,
                gpu_id=gpu,
            )
            model = LocalModel(load, stopwatch.adapt if options.profile or options.trace else lambda _: None)
            return Runner(options, config, model, stopwatch).go(tell)


@contextlib.contextmanager
def opened(path: Path, allow_pickles: Collection[str] = ()) -> Iterator[tuple[Path, Manifest, effective.Effective]]:
    """Yield the folder of a model, its manifest and its settings.

    Raises:
        ArchiveError: the archive cannot be read, or is not safe to unpack.
        InputError: it cannot be run here.
    """
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(open_archive(path))
        manifest = archive.manifest
        if manifest is None or not manifest.model.handler:
            raise InputError(f"{path} names no handler, so there is nothing to load")
        config = effective.understand(read_config(archive, manifest))
        refuse_unservable(manifest, config)
        if config.value("asyncCommunication") is True:
            raise InputError(
                f"the handler of {path} answers in the asynchronous mode, which needs a worker of its own",
                hint=f"torchmar check {path} --input FILE",
            )
        if path.is_dir():
            # As the frontend does it. The user may be changing it: what it says of its own hashes does not bind.
            yield path.resolve(), manifest, config
            return
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="torchmar-run-", ignore_cleanup_errors=True))
        folder = Path(root).resolve() / "model"
        extract(archive, folder, allow_pickles=allow_pickles)
        yield folder, manifest, config


class Runner:
    """A sender of requests to a model, together and repeatedly."""

    def __init__(
        self, options: RunOptions, config: effective.Effective, model: LocalModel, stopwatch: Stopwatch
    ) -> None:
        self._options = options
        self._continuous = config.value("continuousBatching") is True
        self._sequences = bool(config.value("sequenceMaxIdleMSec"))
        self._model = model
        self._stopwatch = stopwatch

    def go(self, tell: Callable[[Answered], None]) -> list[Timing]:
        """Send all inputs; report the answers, and return the times."""
        size, inputs = self._options.batch, self._options.inputs
        timings, batches = [], []
        for start in range(0, len(inputs), size):
            batch = [self.request(start + place) for place in range(size)]
            names = tuple(one.name for one in inputs[start : start + size])
            answers, lap = self.send(batch)
            laps = [lap]
            for name, request in zip(names, batch, strict=False):
                tell(_answered(name, answers[request.request_id], lap[0]))
            if all(_is_good(answers[request.request_id].status) for request in batch):
                laps += [self.send(batch)[1] for _ in range(self._options.repeat)]
            timing = Timing(names, [seconds for seconds, _ in laps])
            if self._options.profile:
                timing.rows = rows(laps)
            timings.append(timing)
            batches.append(batch)
        if self._options.trace is not None:
            with trace(self._options.trace, self._stopwatch):
                for batch in batches:
                    self.send(batch)
        return timings

    def request(self, number: int) -> Request:
        """Return a request with the input of that number; after the last one comes the first."""
        one = self._options.inputs[number % len(self._options.inputs)]
        request_id = f"run-{number}"
        kinds = [value for name, value in self._options.headers if name.lower() == _CONTENT_TYPE]
        request = request_of(request_id, one.body, kinds[-1] if kinds else one.content_type)
        given = {name: value for name, value in self._options.headers if name.lower() != _CONTENT_TYPE}
        if self._sequences:
            given.setdefault("ts_request_sequence_id", request_id)
        return replace(request, headers={**request.headers, **given})

    def send(self, batch: Sequence[Request]) -> tuple[Answers, tuple[float, dict[str, float]]]:
        """Send a batch; return the answers, the seconds, and those of each step.

        Raises:
            CheckError: the worker left requests without an answer.
        """
        answers = Answers([request.request_id for request in batch], continuous=self._continuous)
        begin = time.perf_counter()
        reply = self._model.ask(batch)
        while more := answers.take(reply):
            if self._continuous:
                reply = self._model.ask([answers.further(one) for one in batch if one.request_id in more])
            else:
                reply = self._model.receive()
        seconds = time.perf_counter() - begin
        missing = [request.request_id for request in batch if not answers[request.request_id].status]
        if missing:
            raise CheckError(f"the worker did not answer {len(missing)} of {len(batch)} requests")
        return answers, (seconds, self._stopwatch.lap())


def _answered(name: str, answer: Answer, seconds: float) -> Answered:
    body, content_type = answer.as_sent()
    return Answered(name, answer.status, body, content_type, seconds)


def _is_good(status: int) -> bool:
    return 200 <= status < 400
