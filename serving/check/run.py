"""The check itself: load an archive as a worker would, send inputs as the frontend would, report what came of it."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from archive_tool import compare
from archive_tool.building.samples import content_type_of
from archive_tool.config import effective
from archive_tool.config.safe_yaml import MAX_BYTES
from archive_tool.errors import ArchiveError, InputError, TorchmarError
from archive_tool.inspection import obstacles
from archive_tool.metadata.manifest import Manifest
from archive_tool.reading.archive import Archive, open_archive
from archive_tool.verification.extraction import extract
from serving.check import failures
from serving.check.answers import Answers
from serving.check.process import EndedError, NoAnswerError, Worker, interpreter
from serving.check.result import InputResult, Result
from serving.errors import CheckError
from serving.protocol import Load
from serving.worker.answering.warm_up import request_of

DEFAULT_TIMEOUT_S = 120.0
DEFAULT_REPEAT = 5
# Seconds that the repetitions of one input may take together.
_REPEAT_S = 2.0
_SAMPLE_LIMIT = 64 << 20
_ENDED_S = 10.0
_DEVICE = re.compile(r"cpu|cuda(?::(\d{1,4}))?")


@dataclass(frozen=True)
class Input:
    """A request to try the model with.

    Attributes:
        name: file, or member of the archive.
        body: of the request.
        content_type: of the body.
        expected: body of the answer; None if any will do.
        tolerance: that the archive states for it; see `archive_tool.metadata.record.Sample`.
    """

    name: str
    body: bytes
    content_type: str = "application/octet-stream"
    expected: bytes | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class CheckOptions:
    """What to check, and how.

    Attributes:
        archive: a .mar, a .tar.gz or a folder.
        inputs: to send; None for the samples that the archive has.
        device: "cpu" or "cuda:N".
        timeout_s: for loading, and for each answer; None for what the archive's config says, else 120.
        repeat: how often an input is sent again, for the latency; at most two seconds are spent on that.
        tolerance: by which two numbers may differ, as a part of the larger one; None for what the sample states,
            else 1e-4.
        allow_pickles: names of members that may run code when they are loaded.
    """

    archive: Path
    inputs: tuple[Input, ...] | None = None
    device: str = "cpu"
    timeout_s: float | None = None
    repeat: int = DEFAULT_REPEAT
    tolerance: float | None = None
    allow_pickles: tuple[str, ...] = ()


def check(options: CheckOptions) -> Result:
    """Check an archive. What is wrong with the model is in the result; nothing is left behind.

    Raises:
        ArchiveError: the archive cannot be read, or is not safe to unpack.
        InputError: the archive cannot be checked here.
    """
    gpu = device_index(options.device)
    with open_archive(options.archive) as archive:
        manifest = archive.manifest
        if manifest is None or not manifest.model.handler:
            raise InputError(f"{options.archive} names no handler, so there is nothing to load")
        config = effective.understand(read_config(archive, manifest))
        refuse_unservable(manifest, config)
        inputs = options.inputs if options.inputs is not None else stored(archive, manifest)
        result = Result(options.archive, manifest.model.model_name, manifest.model.model_version, options.device)
        with tempfile.TemporaryDirectory(prefix="torchmar-check-", ignore_cleanup_errors=True) as root:
            # Named as the frontend names them: programs that read its logs know such paths.
            folder = Path(root).resolve() / "models" / secrets.token_hex(16)
            scratch = Path(root).resolve() / "tmp"
            for made in (folder.parent, scratch):
                made.mkdir()
            extract(archive, folder, allow_pickles=options.allow_pickles)
            _Run(options, manifest, config, folder, gpu).go(scratch, inputs, result)
    return result


def stored(archive: Archive, manifest: Manifest) -> tuple[Input, ...]:
    """Return the samples of an archive.

    Raises:
        ArchiveError: a sample is missing, or larger than 64 MiB.
    """
    record = manifest.record
    return tuple(
        Input(
            sample.input,
            archive.read(sample.input, _SAMPLE_LIMIT),
            sample.content_type or content_type_of(sample.input),
            archive.read(sample.expected, _SAMPLE_LIMIT) if sample.expected else None,
            sample.tolerance,
        )
        for sample in (record.samples if record else ())
    )


def device_index(device: str) -> int | None:
    """Return the number of a GPU; None for the CPU.

    Raises:
        InputError: it is not a device, or not one of this machine.
    """
    found = _DEVICE.fullmatch(device)
    if found is None:
        raise InputError(f"{device!r} is no device", hint="write cpu, cuda or cuda:0")
    if device == "cpu":
        return None
    number, count = int(found[1] or 0), obstacles.gpus()
    if count is not None and number >= count:
        raise InputError(f"there is no device {device} here: {count} GPUs are found")
    return number


def read_config(archive: Archive, manifest: Manifest) -> bytes | None:
    """Read the model-config.yaml of an archive; None if it is missing or unreadable."""
    try:
        name = manifest.model.config_file
        return archive.read(name, MAX_BYTES) if name else None
    except ArchiveError:
        return None  # the worker reports it


def refuse_unservable(manifest: Manifest, config: effective.Effective) -> None:
    """Refuse a model that needs more than one Python process.

    Raises:
        InputError: the model needs several.
    """
    if manifest.runtime not in ("python", "python3"):
        raise InputError(f"runtime {manifest.runtime} has no Python worker, so it cannot be tried")
    if config.value("parallelType") in ("pp", "tp", "pptp"):
        raise InputError("a model that torchrun starts in several processes cannot be tried")


def _tolerances(wanted: float | None, stated: float | None) -> tuple[float, float]:
    """Return the relative and the absolute tolerance: as asked for, else as the archive states it, else for float32."""
    if wanted is not None:
        return wanted, compare.ABSOLUTE
    return (stated, stated) if stated is not None else (compare.RELATIVE, compare.ABSOLUTE)


class _Run:
    def __init__(
        self, options: CheckOptions, manifest: Manifest, config: effective.Effective, folder: Path, gpu: int | None
    ) -> None:
        self._options = options
        self._manifest = manifest
        self._config = config
        self._folder = folder
        self._gpu = gpu
        self._name = manifest.model.model_name

    def go(self, scratch: Path, inputs: Sequence[Input], result: Result) -> None:
        worker = Worker(
            self._folder,
            scratch,
            python=interpreter(self._manifest.runtime),
            handler=self._manifest.model.handler,
            asynchronous=self._config.value("asyncCommunication") is True,
        )
        with worker:
            try:
                worker.connect()
                begin = time.monotonic()
                self._load(worker)
                result.load_seconds = time.monotonic() - begin
                for number, one in enumerate(inputs):
                    result.inputs.append(InputResult(one.name, expected=one.expected is not None))
                    self._try(worker, f"check-{number}", one, result)
            except TorchmarError as error:
                result.error = error
            result.memory, result.peak = worker.memory()
            worker.settle()
            # A path of an archive's file is shown as its name in the archive.
            result.stdout, result.stderr = (
                text.replace(f"{self._folder}/", "") for text in (worker.stdout, worker.stderr)
            )

    def _timeout(self, key: str) -> float:
        if self._options.timeout_s is not None:
            return self._options.timeout_s
        return float(self._config.value(key) or DEFAULT_TIMEOUT_S)

    # ---- loading ---------------------------------------------------------------------------------------------------

    def _load(self, worker: Worker) -> None:
        """Load the model.

        Raises:
            TorchmarError: the model cannot be loaded.
        """
        timeout = self._timeout("startupTimeout")
        load = Load(
            model_name=self._name,
            model_path=str(self._folder),
            batch_size=self._config.value("batchSize"),
            handler=self._manifest.model.handler,
            gpu_id=self._gpu,
        )
        try:
            reply = worker.load(load, timeout)
        except EndedError:
            code = worker.wait(_ENDED_S)
            raise failures.load_failure(self._name, worker, self._folder, code) from None
        except NoAnswerError:
            dump = worker.dump()
            raise failures.hang(f"model {self._name} is not loaded after {timeout:g} s", dump, self._folder) from None
        if reply.code != 200:
            raise failures.load_failure(self._name, worker, self._folder, None, told=reply.message)

    # ---- inputs ----------------------------------------------------------------------------------------------------

    def _try(self, worker: Worker, request_id: str, one: Input, result: Result) -> None:
        """Send an input repeatedly and keep the first answer.

        Raises:
            TorchmarError: no further input can be sent.
        """
        found = result.inputs[-1]
        printed = len(worker.lines())
        try:
            found.status, found.content_type, found.body = self._ask(worker, request_id, one, found)
            for _ in range(self._repetitions(found)):
                if sum(found.seconds[1:]) > _REPEAT_S:
                    break
                self._ask(worker, request_id, one, found)
        except EndedError:
            code = worker.wait(_ENDED_S)
            raise failures.death(f"input {one.name}: the worker failed", worker, self._folder, code) from None
        except NoAnswerError:
            timeout = self._timeout("responseTimeout")
            dump = worker.dump()
            raise failures.hang(f"input {one.name}: no answer after {timeout:g} s", dump, self._folder) from None
        if found.status >= 400:
            error = failures.request_failure(self._name, one.name, found, worker.lines()[printed:])
            result.error = result.error or error
        elif one.expected is not None:
            relative, absolute = _tolerances(self._options.tolerance, one.tolerance)
            found.difference = compare.difference(one.expected, found.body, relative=relative, absolute=absolute)
            if found.difference is not None:
                message = f"input {one.name}: another answer than expected: {found.difference}"
                result.error = result.error or CheckError(message)

    def _repetitions(self, found: InputResult) -> int:
        stateful = any(self._config.value(key) for key in ("sequenceMaxIdleMSec", "continuousBatching"))
        return 0 if stateful or found.status >= 400 else self._options.repeat

    def _ask(self, worker: Worker, request_id: str, one: Input, found: InputResult) -> tuple[int, str, bytes]:
        """Return status, content type and body of the answer, with all its parts if it is a stream."""
        request = request_of(request_id, one.body, one.content_type)
        if self._config.value("sequenceMaxIdleMSec"):
            sequence = {"ts_request_sequence_id": request_id}
            request = replace(request, headers={**request.headers, **sequence})
        timeout = self._timeout("responseTimeout")
        begin = time.monotonic()
        reply = worker.ask(request, timeout)
        continuous = self._config.value("continuousBatching") is True
        answers = Answers([request_id], continuous=continuous)
        while answers.take(reply):
            left = begin + timeout - time.monotonic()
            reply = worker.ask(answers.further(request), left) if continuous else worker.receive(left)
        found.seconds.append(time.monotonic() - begin)
        answer = answers[request_id]
        return answer.status, answer.content_type, bytes(answer.body)
