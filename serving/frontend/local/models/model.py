"""A version of a model as its archive and its registration describe it: what is served, how, with what limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from archive_tool.config import effective
from archive_tool.metadata.manifest import FIRST_VERSION, Manifest
from serving.control.configuration.settings import models_of
from serving.frontend.engine import Answer, Registration
from serving.frontend.errors import BadRequestError, FrontendError, ModelError
from serving.frontend.settings import Settings
from serving.protocol import Load

#: The runtimes of a manifest that start a Python process.
PYTHON: Final = ("python", "python3")
#: Characters of a name or a version.
MOST_NAME: Final = 256
#: Processes of a version's workers: more than large machines have processors.
MOST_PROCESSES: Final = 1000
_BROADCAST: Final = ("tp", "pptp", "custom")


@dataclass(frozen=True)
class DefaultAnswer:
    """What is sent in place of a model's answer that does not come in time."""

    body: bytes
    content_type: str

    def answer(self, version: str, reason: str, error: FrontendError) -> Answer:
        """Make an answer of it, which says that it is none of the model's.

        Args:
            version: of the model.
            reason: ``deadline`` or ``queue``.
            error: that it hides.
        """
        headers = {"x-default-answer": reason}
        return Answer(200, "", self.content_type, headers, self.body, version=version, counted=error.status)


@dataclass(frozen=True)
class Unpacked:
    """An archive as it lies unpacked.

    Attributes:
        folder: what workers see as the model's folder.
        owned: what is removed with the model; None where the folder is the user's own.
        url: as it was registered.
        manifest: of the archive; None without one.
        config: text of its model-config.yaml; None without one.
        default_answer: of its model-config.yaml; None without one.
        task: what its manifest records that it is for, by the Hub's name; empty where it says nothing.
    """

    folder: Path
    owned: Path | None
    url: str
    manifest: Manifest | None
    config: bytes | None = None
    default_answer: DefaultAnswer | None = None
    task: str = ""


@dataclass(frozen=True)
class Model:
    """What is to be served.

    Attributes:
        unpacked: where its files are.
        handler: of the manifest, the registration or default_service_handler; None if nobody names one.
        least, most: workers that it wants.
        max_batch_delay_ms: as TorchServe has it; a batch is never held open for it.
        queue_size: requests that may wait.
        levels: processes that make up one worker (parallelLevel).
        retry: whether a request whose worker died may be sent again.
        document: of model-config.yaml.
        values: its settings in effect, by key.
    """

    name: str
    version: str
    unpacked: Unpacked
    handler: str | None
    runtime: str
    batch_size: int
    max_batch_delay_ms: int
    response_timeout_s: int
    startup_timeout_s: int
    least: int
    most: int
    queue_size: int
    levels: int = 1
    retry: bool = False
    document: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name and version, as threads and logs of TorchServe call it."""
        return f"{self.name}_{self.version}"

    @property
    def handler_of_archive(self) -> str | None:
        """Handler that its archive names."""
        return self.unpacked.manifest.model.handler if self.unpacked.manifest else None

    @property
    def asynchronous(self) -> bool:
        """Whether its workers take requests while others run."""
        return bool(self.values.get("asyncCommunication"))

    @property
    def shared(self) -> bool:
        """Whether its workers are one process."""
        backend = self.document.get("backend")
        return isinstance(backend, dict) and backend.get("mode") == "shared"

    @property
    def stateful(self) -> bool:
        """Whether its requests belong to sequences, each of which stays with one worker."""
        return bool(self.values.get("sequenceBatching"))

    @property
    def ticketed(self) -> bool:
        """Whether a request is only taken where a worker is free for it: nothing waits."""
        return bool(self.values.get("useJobTicket"))

    @property
    def default_answer(self) -> DefaultAnswer | None:
        """What is answered where it is too late; None where that is an error."""
        return self.unpacked.default_answer

    @property
    def client_timeout_s(self) -> float:
        """Seconds that clients wait for an answer; 0 for as long as it takes."""
        return int(self.values.get("clientTimeoutInMills") or 0) / 1000

    @property
    def continuous(self) -> bool:
        """Whether requests join and leave a batch between its iterations."""
        return bool(self.values.get("continuousBatching"))

    @property
    def broadcasts(self) -> bool:
        """Whether every process of a worker gets the requests, and not the first alone."""
        return self.values.get("parallelType") in _BROADCAST

    def load(self, settings: Settings, gpu: int | None) -> Load:
        """Make the first message to a worker."""
        return Load(
            self.name,
            str(self.unpacked.folder),
            self.batch_size,
            self.handler,
            gpu,
            settings.text("service_envelope"),
            settings.limit_max_image_pixels,
        )

    def with_workers(self, least: int, most: int) -> Model:
        """Return the same with other numbers of workers."""
        return replace(self, least=least, most=most)


def model_of(unpacked: Unpacked, wanted: Registration, settings: Settings, *, startup_name: str = "") -> Model:
    """Understand an archive, a registration and the server's settings together (ModelManager.java).

    Args:
        unpacked: the archive.
        wanted: what the registration says.
        settings: of the server.
        startup_name: of a model that is loaded at the start, where neither its registration nor its manifest has one.

    Raises:
        BadRequestError: nobody gives a name.
        ModelError: the archive asks for what this frontend does not have.
    """
    described = unpacked.manifest.model if unpacked.manifest else None
    name = wanted.model_name or (described and described.model_name) or startup_name
    if not name:
        raise BadRequestError("the archive has no manifest, so the parameter model_name is required")
    version = described.version if described else FIRST_VERSION
    _check_name("name", name)
    _check_name("version", version)
    runtime = wanted.runtime or (unpacked.manifest.runtime if unpacked.manifest else PYTHON[0])
    if runtime not in PYTHON:
        raise ModelError(f"model {name} wants the runtime {runtime}; this frontend starts Python workers only")
    config = effective.understand(unpacked.config)
    values = {setting.key: setting.value for setting in config.settings}
    if values.get("sequenceBatching") and not values.get("sequenceMaxIdleMSec"):
        raise ModelError(f"model {name}: sequenceBatching in its configuration needs sequenceMaxIdleMSec above 0")
    own = settings_of_properties(settings, name, version)

    def first(key: str, asked: int | None, default: int) -> int:
        """Choose a value: the archive's own wins, then the request's, then that of `models={...}`."""
        source = next((setting.source for setting in config.settings if setting.key == key), effective.SERVER)
        if source == effective.FILE or (source == effective.DEFAULT and key.endswith("Timeout")):
            return int(values[key])
        if asked is not None and asked > 0:
            return asked
        return int(own.get(key, default))

    workers = settings.default_workers_per_model if wanted.initial_workers is None else wanted.initial_workers
    least, most = values.get("minWorkers"), values.get("maxWorkers")
    if least is None or most is None:
        least, most = int(own.get("minWorkers", workers)), int(own.get("maxWorkers", workers))
    parallel = values.get("parallelType")
    return Model(
        name=name,
        version=version,
        unpacked=unpacked,
        handler=wanted.handler or (described and described.handler) or settings.text("default_service_handler"),
        runtime=runtime,
        batch_size=max(1, first("batchSize", wanted.batch_size, 1)),
        max_batch_delay_ms=first("maxBatchDelay", wanted.max_batch_delay_ms, 100),
        response_timeout_s=first("responseTimeout", wanted.response_timeout_s, settings.default_response_timeout),
        startup_timeout_s=first("startupTimeout", wanted.startup_timeout_s, settings.default_startup_timeout),
        least=least,
        most=max(least, most),
        queue_size=values.get("jobQueueSize") or settings.job_queue_size,
        levels=max(1, int(values.get("parallelLevel") or 1)) if parallel else 1,
        retry=may_run_twice(unpacked.folder, config.document),
        document=config.document,
        values=values,
    )


def _check_name(what: str, text: str) -> None:
    """Refuse what lines of logs cannot hold, in which names and versions stand.

    Raises:
        ModelError: it is such a name.
    """
    if not text.isprintable() or len(text) > MOST_NAME:
        raise ModelError(
            f"the {what} {text[:80]!r} of the model cannot stand in a log: give it at most {MOST_NAME} characters, "
            "none of them a control character"
        )


def check_workers(model: Model, most: int) -> None:
    """Refuse so many workers, at once or as requests come, that their processes would take the machine.

    Raises:
        BadRequestError: they are too many.
    """
    if max(1, most) * model.levels > MOST_PROCESSES:
        each = f" of {model.levels} processes each (parallelLevel)" if model.levels > 1 else ""
        raise BadRequestError(
            f"model {model.name}: {most} workers{each} are more than the {MOST_PROCESSES} processes that one may have; "
            "ask for fewer: minWorkers and maxWorkers of its configuration, initial_workers, min_worker or max_worker "
            "of a request"
        )


def settings_of_properties(settings: Settings, name: str, version: str) -> Mapping[str, Any]:
    """Return what ``models={...}`` of config.properties says of a version."""
    return models_of(settings.properties).get(name, {}).get(version, {})


def may_run_twice(folder: Path, document: Mapping[str, Any]) -> bool:
    """Whether a request may run again after its worker died.

    ``backend: {retry: ...}`` of the model's configuration says so; else only handlers of our SDK do: theirs compute and
    do nothing else. An archive that was built with it holds a copy of it.
    """
    backend = document.get("backend")
    if isinstance(backend, dict) and isinstance(backend.get("retry"), bool):
        return bool(backend["retry"])
    return (folder / "handlers" / "__init__.py").is_file()
