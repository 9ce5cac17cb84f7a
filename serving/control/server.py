"""Starts a server, waits until its models are ready, and stops it again."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from archive_tool.errors import InputError
from serving.client import ManagementClient, ModelVersion
from serving.control import config as configuration
from serving.control import java, ports
from serving.control.diagnosis import LogWatch
from serving.control.keys import current_key
from serving.control.processes import end_session
from serving.control.state import ServerRecord, StateFolder
from serving.control.store import Selection, select
from serving.errors import (
    AlreadyRunningError,
    NotRunningError,
    ReplyError,
    StartError,
)

# The system's limit for the path of a unix socket is 104 (macOS) to 108 bytes with its end mark.
_SOCKET_PATH_MAX = 103
_SOCKET_NAME_MAX = len("/.ts.sock.65535")
# A worker's traceback can be lost between the worker and the frontend's log; the frontend tries again after a second.
_FAILURES_WITHOUT_TRACEBACK = 2
# How the frontend ends when it is asked to: by its own exit code, or seen as a signal.
STOPPED_CODES = (143, -15)
_POLL_S = 0.1
# Seconds that the frontend may take to end by itself; one that never became ready has nothing to finish.
_GRACE_S = 30.0
_STARTING_GRACE_S = 5.0
# As the repository's config.properties names our log configuration for the stock command.
STOCK_LOG_CONFIG = "serving/control/log4j2.xml"

# What the Java runtime and the search for GPUs always say, and what a runtime says that is too old for the frontend.
_NOISE = re.compile(r"WARNING:|(nvidia|xpu)-smi not available")
_OLD_JAVA = ("UnsupportedClassVersionError", "Could not create the Java Virtual Machine")

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class StartOptions:
    """What a server is started with.

    Attributes:
        name: of the server; several run side by side under different names.
        models: ``NAME=ARCHIVE`` or ``ARCHIVE`` each, or ``all``.
        model_store: folder of the archives.
        ts_config: config.properties; ``./config.properties`` is read when there is one.
        workers: for each model; by default what the model's own configuration says.
        port: first of five ports, ``auto`` for free ones, None for those of the configuration.
        timeout_s: seconds until every model must be ready.
        foreground: log to standard output as well.
    """

    name: str = "default"
    models: tuple[str, ...] = ()
    model_store: Path | None = None
    ts_config: Path | None = None
    workers: int | None = None
    port: int | Literal["auto"] | None = None
    timeout_s: float = 300.0
    foreground: bool = False


@dataclass(frozen=True)
class Started:
    """A server whose models are ready.

    Attributes:
        seconds: from the command to the last model's being ready.
        process: the Java process; the caller may wait for it.
    """

    record: ServerRecord
    models: tuple[ModelVersion, ...]
    seconds: float
    process: subprocess.Popen[bytes]


def _silent(_seconds: float, _text: str) -> None:
    return


def start(
    options: StartOptions,
    state: StateFolder | None = None,
    progress: Progress = _silent,
    meanwhile: Callable[[Started], None] | None = None,
) -> Started:
    """Starts a server and returns when every requested model has a ready worker.

    Whatever goes wrong, nothing of the server is left running, and no runtime folder stays.

    Args:
        options: what to start.
        state: where to remember it; by default the folder of ``options.name``.
        progress: called with the seconds so far and what is being waited for.
        meanwhile: called once the server is ready; what it raises, a signal's exception at any moment included,
            ends the server. For a caller that stays.

    Raises:
        AlreadyRunningError: a server of this name runs.
        PortInUseError: somebody has a port that it needs.
        ModelLoadError: a worker failed to load its model; carries the worker's own error.
        StartError: the frontend ended, or a model was not ready in time.
        InputError, ArchiveError: a configuration or an archive that cannot be used.
    """
    begun = time.monotonic()
    state = state or StateFolder(options.name)
    with state.locked():
        _clear_previous(state)
        prepared = _prepare(options, state)
        process = _spawn(prepared, state, options)
        try:
            record = _record(state, process, prepared)
            state.write(record)
        except BaseException:
            process.kill()
            process.wait()
            shutil.rmtree(prepared.runtime_folder, ignore_errors=True)
            raise
    grace_s = _STARTING_GRACE_S
    try:
        waiting = _Waiting(record, process, prepared, state, begun, progress)
        models = waiting.until_ready(begun + options.timeout_s)
        if options.workers is not None:
            models = _scale_to(options.workers, models, record, state)
        started = Started(record, models, time.monotonic() - begun, process)
        if meanwhile is not None:
            grace_s = _GRACE_S
            meanwhile(started)
    except BaseException:
        _end(record, state, process, grace_s=grace_s)
        raise
    return started


def stop(state: StateFolder, *, grace_s: float = _GRACE_S) -> int:
    """Ends a server and everything that its start began.

    Returns:
        How many processes had to be killed because they did not end by themselves.

    Raises:
        NotRunningError: there is none; what a dead one left is removed.
    """
    with state.locked():
        record = state.record()
        if record is None:
            raise NotRunningError(f"no server {state.name!r} is running", hint="torchmar start begins one")
        alive = record.alive
        killed = _end(record, state, None, grace_s=grace_s)
    if not alive:
        raise NotRunningError(
            f"server {state.name!r} had ended by itself; what it left is removed now",
            hint=f"its logs: {record.log_folder}",
        )
    return killed


def management_client(record: ServerRecord, state: StateFolder, *, timeout_s: float = 120.0) -> ManagementClient:
    """A client of a started server, with its key if it asks for one."""
    token = current_key(record, state, "management")
    return ManagementClient.at(record.management, timeout_s=timeout_s, token=token)


@dataclass(frozen=True)
class _Prepared:
    properties: Mapping[str, str]
    selection: Selection
    runtime_folder: Path
    vm_options: tuple[str, ...]


def _clear_previous(state: StateFolder) -> None:
    record = state.record()
    if record is None:
        state.forget()
        return
    if record.alive:
        raise AlreadyRunningError(
            f"server {state.name!r} is running already (pid {record.pid}, {record.inference})",
            hint="torchmar stop ends it; torchmar start --name OTHER --port auto starts a second one",
        )
    _end(record, state, None, grace_s=0.0)


def _prepare(options: StartOptions, state: StateFolder) -> _Prepared:
    """Checks everything that can be checked before a process is started."""
    config_file = options.ts_config
    if config_file is None and Path("config.properties").is_file():
        config_file = Path("config.properties")
    user = configuration.read_properties(config_file) if config_file else {}
    port = None if options.port == "auto" else options.port
    properties = configuration.effective(user, port=port, workers=options.workers)
    vm_options = tuple(_absolute_log_config(option) for option in shlex.split(properties.pop("vmargs", "")))
    selection = select(options.models, model_store=options.model_store, properties=properties, config_folder=Path.cwd())
    if options.port == "auto":
        host = configuration.listening_hosts(properties)[0] if configuration.listening_hosts(properties) else ""
        properties |= configuration.port_settings(properties, ports.choose_free(host or "127.0.0.1", 5))
    ports.check_free(configuration.listeners(properties))
    properties.pop("load_models", None)
    properties["model_store"] = str(selection.store)
    java.java_home()
    java.torchserve_home()
    _rotate_logs(state)
    configuration.write_properties(state.config, properties)
    return _Prepared(properties, selection, _make_runtime_folder(), vm_options)


def _absolute_log_config(option: str) -> str:
    """The frontend runs in another folder than the user wrote ``vmargs`` for.

    Raises:
        InputError: the log configuration does not exist; the frontend would silently log nothing.
    """
    key, _, value = option.partition("=")
    if key not in ("-Dlog4j.configurationFile", "-Dlog4j2.configurationFile") or ":" in value:
        return option
    if Path(value).is_file():
        return f"{key}={Path(value).resolve().as_uri()}"
    if value == STOCK_LOG_CONFIG:
        # config.properties was copied out of the repository; the file that it means travels with the package.
        return f"{key}={java.log_config().as_uri()}"
    raise InputError(
        f"no such log configuration: {value} (vmargs of config.properties)",
        hint="correct the path, or remove the line to use torchmar's own",
    )


def _rotate_logs(state: StateFolder) -> None:
    previous = state.path / "logs.previous"
    if state.logs.exists():
        shutil.rmtree(previous, ignore_errors=True)
        state.logs.rename(previous)
    state.logs.mkdir(parents=True)


def _make_runtime_folder() -> Path:
    """A folder of our own for sockets and extracted models, with a path short enough for a socket."""
    candidates = [tempfile.gettempdir(), "/tmp"]  # noqa: S108 (mkdtemp makes a private folder in it)
    for parent in candidates:
        folder = Path(tempfile.mkdtemp(prefix="torchmar-", dir=parent)).resolve()
        if len(str(folder).encode()) + _SOCKET_NAME_MAX <= _SOCKET_PATH_MAX:
            return folder
        folder.rmdir()
    raise StartError("no temporary folder with a path short enough for a socket", hint="set TMPDIR to a shorter one")


def _spawn(prepared: _Prepared, state: StateFolder, options: StartOptions) -> subprocess.Popen[bytes]:
    launch = java.Launch(
        config=state.config,
        model_store=prepared.selection.store,
        runtime_folder=prepared.runtime_folder,
        models=prepared.selection.models,
        load_all=prepared.selection.load_all,
        vm_options=prepared.vm_options,
        console=options.foreground,
    )
    try:
        with (state.logs / "java.log").open("wb") as log:
            return subprocess.Popen(
                launch.command(),
                cwd=state.path,
                env=java.environment(state.logs, settings=prepared.properties),
                stdin=subprocess.DEVNULL,
                stdout=None if options.foreground else log,
                stderr=log,
                # A session of its own: see processes.py; and Ctrl-C reaches us first.
                start_new_session=True,
            )
    except BaseException as error:
        shutil.rmtree(prepared.runtime_folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise StartError(f"Java cannot be started: {error}") from error
        raise


def _record(state: StateFolder, process: subprocess.Popen[bytes], prepared: _Prepared) -> ServerRecord:
    properties = prepared.properties
    return ServerRecord(
        name=state.name,
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        inference=properties["inference_address"],
        management=properties["management_address"],
        metrics=properties["metrics_address"],
        grpc_inference=f"{properties['grpc_inference_address']}:{properties['grpc_inference_port']}",
        grpc_management=f"{properties['grpc_management_address']}:{properties['grpc_management_port']}",
        model_store=str(prepared.selection.store),
        runtime_folder=str(prepared.runtime_folder),
        log_folder=str(state.logs),
    )


def _end(record: ServerRecord, state: StateFolder, process: subprocess.Popen[bytes] | None, *, grace_s: float) -> int:
    """Ends the processes, then removes what they used."""
    ours = record.alive or (process is not None and process.poll() is None)
    killed = end_session(record.pid, leader_is_ours=ours, grace_s=grace_s)
    if process is not None:
        process.wait()
    # Only a folder that _make_runtime_folder can have made: the record is a file that could be altered.
    if Path(record.runtime_folder).name.startswith("torchmar-"):
        shutil.rmtree(record.runtime_folder, ignore_errors=True)
    current = state.record()
    # Meanwhile another command may have stopped this server and started one of the same name.
    if current is None or (current.pid, current.started) == (record.pid, record.started):
        state.forget()
    return killed


@dataclass
class _Waiting:
    """Watches a starting server: its process, its logs, and what the management API tells."""

    record: ServerRecord
    process: subprocess.Popen[bytes]
    prepared: _Prepared
    state: StateFolder
    begun: float
    progress: Progress

    def until_ready(self, deadline: float) -> tuple[ModelVersion, ...]:
        watch = LogWatch(Path(self.record.log_folder), from_begin=True)
        while True:
            self._check_process()
            watch.poll()
            models = self._models()
            names = self._expected(models or ())
            for name in names:
                self._check_load(watch, name)
            waiting_for = "starting the frontend"
            if models is not None:
                self._check_registered(names, models)
                missing = [
                    f"{model.name} {model.version}"
                    for model in models
                    if model.name in names and model.min_workers and not model.ready_workers
                ]
                if not missing:
                    return models
                waiting_for = f"loading {', '.join(missing)}"
            elapsed = time.monotonic() - self.begun
            self.progress(elapsed, waiting_for)
            if time.monotonic() > deadline:
                raise self._late(waiting_for, [line for name in names for line in watch.lines_of(name)][-5:])
            time.sleep(_POLL_S)

    def _models(self) -> tuple[ModelVersion, ...] | None:
        """All versions of all registered models: the frontend registers before it listens. None before that."""
        # The key file appears when the frontend is up, so the client is made anew each time.
        with management_client(self.record, self.state, timeout_s=10.0) as client:
            try:
                return tuple(version for row in client.models() for version in client.describe(row.name))
            except (NotRunningError, ReplyError):
                return None

    def _expected(self, models: Sequence[ModelVersion]) -> list[str]:
        """Names that must be ready."""
        named = [spec.name for spec in self.prepared.selection.models]
        return list(dict.fromkeys(named)) or [model.name for model in models if model.min_workers > 0]

    def _check_registered(self, names: Sequence[str], models: Sequence[ModelVersion]) -> None:
        asked = Counter(spec.name for spec in self.prepared.selection.models)
        registered = Counter(model.name for model in models)
        refused = [name for name in names if registered[name] < asked[name]]
        if refused:
            raise StartError(
                f"the frontend did not take {', '.join(refused)}: {self._last_words()}",
                where=self.record.log_folder,
            )

    def _late(self, waiting_for: str, last_lines: Sequence[str]) -> StartError:
        return StartError(
            f"not ready after {time.monotonic() - self.begun:.0f} s: {waiting_for}"
            + (f"; last lines: {' | '.join(last_lines)}" if last_lines else ""),
            where=self.record.log_folder,
            hint="allow more time with --timeout, or see the logs",
        )

    def _last_words(self) -> str:
        lines: list[str] = []
        for name in ("java.log", "ts_log.log"):
            path = Path(self.record.log_folder) / name
            if path.exists():
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if line.strip() and not line.startswith("\tat ") and not _NOISE.search(line)]
        return " | ".join(told[-4:]) or "it said nothing"

    def _check_process(self) -> None:
        code = self.process.poll()
        if code is None:
            return
        if code in STOPPED_CODES:
            raise StartError(
                "the server was stopped while it started", hint="torchmar stop was called, or a signal sent"
            )
        words = self._last_words()
        too_old = any(sign in words for sign in _OLD_JAVA)
        raise StartError(
            f"the frontend ended with exit code {code}: {words}",
            where=self.record.log_folder,
            hint="TorchServe needs Java 11 or newer: unset JAVA_HOME to use the one of torchmar" if too_old else None,
        )

    def _check_load(self, watch: LogWatch, name: str) -> None:
        failure = watch.failure(name)
        if failure is None and watch.times_failed(name) >= _FAILURES_WITHOUT_TRACEBACK:
            failure = watch.bare_failure(name)
        if failure is not None:
            raise failure.error(Path(self.record.log_folder))


def _scale_to(
    workers: int, models: tuple[ModelVersion, ...], record: ServerRecord, state: StateFolder
) -> tuple[ModelVersion, ...]:
    """The command line wins over ``minWorkers`` of a model's own configuration, which wins in the frontend."""
    with management_client(record, state) as client:
        for model in models:
            if model.min_workers != workers:
                client.scale(model.name, min_workers=workers, version=model.version)
        return tuple(
            version for name in dict.fromkeys(model.name for model in models) for version in client.describe(name)
        )
