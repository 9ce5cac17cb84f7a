"""Start of a server, the wait until its models are ready, and its stop."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import psutil

from archive_tool import files
from archive_tool.errors import InputError
from serving.client import ManagementClient, ModelVersion
from serving.client.transport import Address
from serving.control import clusters
from serving.control.configuration import access, few_cores, frontends, java, ports, settings, vmargs
from serving.control.configuration import config as configuration
from serving.control.following.waiting import Progress, Waiting
from serving.control.keys import current_key, given_keys, without_given, write_given
from serving.control.models import snapshots, trust
from serving.control.models.store import Selection, restored, select
from serving.control.models.versions import with_defaults
from serving.control.processes import end_session, ends_with_parent
from serving.control.state import ServerRecord, StateFolder, identity_of, not_running
from serving.errors import AlreadyRunningError, NotRunningError, StartError

# The system's limit for the path of a unix socket is 104 (macOS) to 108 bytes with its end mark.
_SOCKET_PATH_MAX = 103
_SOCKET_NAME_MAX = len("/.ts.sock.65535")
# Seconds that the frontend may take to end by itself; one that never became ready has nothing to finish.
_GRACE_S = 30.0
_STARTING_GRACE_S = 5.0


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
        stock_worker: run TorchServe's own worker, whatever the configuration says.
        require_signature: a public key in PEM; nothing is served that was not signed with its private key.
        enable_model_api: let models be registered and removed while it runs; requests then need a key.
        disable_token_auth: ask for no keys, with the model API neither.
        restore: serve the models of this server's last run, those that were registered later included, by the frontend
            that served them, unless another one is asked for.
        snapshots: have the frontend write down its models at each change, so that they can be restored.
        frontend: ``java``, ``python`` or ``ray``; None for what the environment or the configuration says, else that
            of the run that is restored, else Java's.
        single_port: all of HTTP at the address of the inference API; of the Python frontend, as what follows.
        trusted_network: ask for no key wherever it listens; see `access.settled`.
        platforms: answer what KServe and SageMaker ask beyond TorchServe's calls.
        multi_model: folder below which SageMaker may load models; only in a trusted network, as it has no keys.
        settings: of the command line, which win over those of the configuration.
    """

    name: str = "default"
    models: tuple[str, ...] = ()
    model_store: Path | None = None
    ts_config: Path | None = None
    workers: int | None = None
    port: int | Literal["auto"] | None = None
    timeout_s: float = 300.0
    foreground: bool = False
    stock_worker: bool = False
    require_signature: Path | None = None
    enable_model_api: bool = False
    disable_token_auth: bool = False
    restore: bool = False
    snapshots: bool = True
    frontend: Literal["java", "python", "ray"] | None = None
    single_port: bool = False
    trusted_network: bool = False
    platforms: bool = False
    multi_model: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A server whose models are ready.

    Attributes:
        seconds: from the command to the last model's being ready.
        process: the frontend's; the caller may wait for it.
        snapshot: name of the snapshot that its models were restored from; empty if they were not.
    """

    record: ServerRecord
    models: tuple[ModelVersion, ...]
    seconds: float
    process: subprocess.Popen[bytes]
    snapshot: str = ""


def _silent(*_: object) -> None:
    return


def start(
    options: StartOptions,
    state: StateFolder | None = None,
    progress: Progress = _silent,
    meanwhile: Callable[[Started], None] | None = None,
    warn: Callable[[str], None] = _silent,
) -> Started:
    """Start a server and return when every requested model has a ready worker.

    Whatever goes wrong, nothing of the server is left running, and no runtime folder stays.

    Args:
        options: what to start.
        state: where to remember it; by default the folder of ``options.name``.
        progress: called with the seconds so far and what is being waited for.
        meanwhile: called once the server is ready; what it raises, a signal's exception at any moment included,
            ends the server. For a caller that stays.
        warn: gets what is allowed but unwise, or silently ignored, before anything is started.

    Raises:
        AlreadyRunningError: a server of this name runs.
        PortInUseError: a port that it needs is taken.
        ModelLoadError: a worker failed to load its model; carries the worker's own error.
        StartError: the frontend ended, or a model was not ready in time.
        InputError, ArchiveError: a configuration or an archive cannot be used.
    """
    begun = time.monotonic()
    state = state or StateFolder(options.name)
    with state.locked():
        _clear_previous(state, options)
        prepared = _prepare(options, state, warn)
        process = _spawn(prepared, state)
        try:
            record = _record(state, process, prepared)
            state.write(record)
        except BaseException:
            process.kill()
            process.wait()
            shutil.rmtree(prepared.runtime_folder, ignore_errors=True)
            raise
    grace_s, ready = _STARTING_GRACE_S, False
    try:
        connect = partial(management_client, record, state, timeout_s=10.0)
        stranger = partial(ports.is_anothers, Address(record.management).port, process.pid)
        if record.frontend == "ray":  # it listens before it has its models, or somebody listens for it
            stranger = partial(_is_deploying, prepared.runtime_folder)
        waiting = Waiting(
            process, state.logs, prepared.selection, connect, begun, progress, prepared.properties, stranger
        )
        models = waiting.until_ready(begun + options.timeout_s)
        models = _as_asked(options, prepared, models, record, state)
        if prepared.cluster:
            record = clusters.left(record, prepared.cluster)
            state.write(record)
        started = Started(record, models, time.monotonic() - begun, process, prepared.snapshot)
        ready = True
        if meanwhile is not None:
            grace_s = _GRACE_S
            meanwhile(started)
    except BaseException:
        _end(record, state, process, grace_s=grace_s)
        if not ready:
            snapshots.discard(state)
        raise
    return started


def stop(state: StateFolder, *, grace_s: float = _GRACE_S) -> int:
    """End a server and everything that its start began.

    Returns:
        How many processes had to be killed because they did not end by themselves.

    Raises:
        NotRunningError: there is none; what a dead one left is removed.
    """
    with state.locked():
        record = state.record()
        if record is None:
            raise not_running(state.name, state.path.parent.parent)
        alive = record.alive
        if record.cluster:
            clusters.remove(record.cluster, grace_s=grace_s)
        killed = _end(record, state, None, grace_s=grace_s)
    if not alive:
        raise NotRunningError(
            f"server {state.name!r} had ended by itself; what it left is removed now",
            hint=f"its logs: {record.log_folder}",
        )
    return killed


def _is_deploying(runtime_folder: Path) -> bool:
    return not (runtime_folder / frontends.DEPLOYED).exists()


def management_client(record: ServerRecord, state: StateFolder, *, timeout_s: float = 120.0) -> ManagementClient:
    """Return a client of a started server, with its key if it asks for one."""
    token = current_key(record, state, "management")
    return ManagementClient.at(record.management, timeout_s=timeout_s, token=token)


@dataclass(frozen=True)
class _Prepared:
    launch: frontends.Launch
    selection: Selection
    user_store: Path
    snapshot: str

    @property
    def properties(self) -> Mapping[str, str]:
        return self.launch.properties

    @property
    def cluster(self) -> str:
        return self.properties.get(frontends.RAY_ADDRESS, "") if self.launch.name == "ray" else ""

    @property
    def runtime_folder(self) -> Path:
        return self.launch.runtime_folder

    @property
    def trusted_store(self) -> str:
        return "" if self.user_store == self.selection.store else str(self.selection.store)


def _clear_previous(state: StateFolder, options: StartOptions) -> None:
    record = state.record()
    if record is None:
        state.forget()
        return
    if record.cluster and record.cluster == options.settings.get(frontends.RAY_ADDRESS):
        return  # what it serves there may be deployed anew
    if record.alive:
        raise AlreadyRunningError(
            f"server {state.name!r} is running already ({record.whereabouts}, {record.inference})",
            hint="torchmar stop ends it; torchmar start --name OTHER --port auto starts a second one",
        )
    _end(record, state, None, grace_s=0.0)


def _prepare(options: StartOptions, state: StateFolder, warn: Callable[[str], None]) -> _Prepared:
    """Check everything that can be checked before a process is started."""
    keys = given_keys()
    last = snapshots.last_frontend(state) if options.restore else None
    properties = configured(options, warn, given_keys=bool(keys), last_frontend=last)
    frontend = properties[frontends.KEY]
    vm_arguments = vmargs.read(properties.pop("vmargs", ""))
    home = _home(options, vm_arguments.home, properties.pop("model_server_home", ""), frontend)
    snapshot = snapshots.chosen(state, properties, named=bool(options.models), restore=options.restore, warn=warn)
    selection = _select(options, snapshot, properties)
    for text in selection.without_effect():
        warn(text)
    properties |= _addresses(options, properties)
    if not properties.get(frontends.RAY_ADDRESS):
        ports.check_free(configuration.listeners(properties, grpc=frontends.LAUNCHES[frontend].serves_grpc(properties)))
    configuration.response_timeout(properties)  # read again for the workers' environment; refused here
    properties.pop("load_models", None)
    if frontend == "java":
        java.java_home()
    runtime_folder = make_runtime_folder()
    try:
        user_store = selection.store
        if options.require_signature is not None:
            properties = trust.restricted(properties)
            selection = _trusted(options.require_signature, selection, state, runtime_folder)
            if frontend == "ray":  # checked on every node
                properties["torchmar_ray_signature_key"] = str(state.signature_key)
        properties["model_store"] = str(selection.store)
        snapshots.keep(state)
        _rotate_logs(state)
        configuration.write_properties(state.config, properties)
        given = runtime_folder / "given_keys.json" if keys else None
        if given:
            write_given(given, keys)
    except BaseException:
        shutil.rmtree(runtime_folder, ignore_errors=True)
        raise
    launch = frontends.LAUNCHES[frontend](
        config=state.config,
        model_store=selection.store,
        runtime_folder=runtime_folder,
        home=home,
        log_folder=state.logs,
        properties=properties,
        models=() if snapshot else selection.models,
        load_all=selection.load_all,
        snapshots=options.snapshots,
        console=options.foreground,
        given_keys=given,
        platforms=options.platforms,
        multi_model=options.multi_model,
    )
    if isinstance(launch, frontends.JavaLaunch):
        launch = replace(launch, vm_options=few_cores.vm_options(vm_arguments.options))
    return _Prepared(launch, selection, user_store, snapshot.name if snapshot else "")


def _addresses(options: StartOptions, properties: dict[str, str]) -> dict[str, str]:
    """Where the server listens, as far as the command line says it."""
    found = {}
    if options.port == "auto":
        host = configuration.listening_hosts(properties)[0] if configuration.listening_hosts(properties) else ""
        found = configuration.port_settings(properties, ports.choose_free(host or "127.0.0.1", 5))
    if options.single_port or properties[frontends.KEY] == "ray":
        inference = found.get("inference_address", properties["inference_address"])
        found |= dict.fromkeys(configuration.HTTP_KEYS, inference)
    return found


def configured(
    options: StartOptions, warn: Callable[[str], None], *, given_keys: bool, last_frontend: str | None = None
) -> dict[str, str]:
    """Return the settings of the defaults, the user's file and the command line, and the chosen frontend.

    Args:
        options: of the command line.
        warn: gets what is allowed but unwise, or ignored.
        given_keys: whether the environment gives keys.
        last_frontend: of the run that is restored.

    Raises:
        InputError: a setting that cannot be used.
        StartError: the server would listen beyond loopback without keys.
    """
    config_file = options.ts_config
    if config_file is None and Path("config.properties").is_file():
        config_file = Path("config.properties")
    user = {**(configuration.read_properties(config_file) if config_file else {}), **options.settings}
    port = None if options.port == "auto" else options.port
    properties = configuration.effective(user, port=port, workers=options.workers)
    properties[frontends.KEY] = frontends.chosen(options.frontend, properties, last=last_frontend)
    properties = access.settled(
        properties,
        enable_model_api=options.enable_model_api,
        disable_token_auth=options.disable_token_auth,
        warn=warn,
        given_keys=given_keys,
        trusted_network=options.trusted_network,
        multi_model=options.multi_model,
    )
    if properties[frontends.KEY] == "java" and given_keys:
        raise InputError("TorchServe's frontend makes its own keys, and takes none", hint="add --frontend python")
    told = {key: properties[key] for key in user}
    for text in settings.warnings(told, config_file.name if config_file else ""):
        warn(text)
    if properties[frontends.KEY] == "java":
        if options.single_port:
            raise InputError("TorchServe's frontend needs more than a single port", hint="add --frontend python")
        return few_cores.properties(properties)
    frontends.refuse_plugins(properties)
    frontends.refuse_client_certificates(properties)
    for key in frontends.javas_own(told):
        warn(f"{config_file}: {key} has no meaning for the Python frontend")
    return properties


def _select(options: StartOptions, snapshot: snapshots.Snapshot | None, properties: Mapping[str, str]) -> Selection:
    if snapshot is None:
        return select(options.models, model_store=options.model_store, properties=properties, config_folder=Path.cwd())
    store = options.model_store or snapshot.store
    selection = restored(snapshot.models, model_store=store, properties=properties, config_folder=Path.cwd())
    # Two versions of one archive are one that was replaced: `check` says so.
    snapshot.check(selection.store)
    return selection


def _trusted(key: Path, selection: Selection, state: StateFolder, runtime_folder: Path) -> Selection:
    """Return the same models from a store of checked copies; the key is kept as it is now."""
    try:
        state.signature_key.write_bytes(files.read_regular(key, files.MAX_KEY))
    except OSError as error:
        raise InputError(f"the key {key} cannot be read: {error.strerror}", where=str(key)) from error
    store = runtime_folder / "store"
    trust.fill(store, selection.archives(), state.signature_key)
    return replace(selection, store=store)


def _home(options: StartOptions, of_vmargs: str | None, of_key: str, frontend: str = "java") -> Path:
    """Whose worker the frontend starts: the command line's, that of vmargs, that of the key (as Java ranks them), ours.

    Raises:
        StartError: TorchServe or our worker is not installed.
        InputError: the configuration names a folder without a worker.
    """
    if frontend == "java" or options.stock_worker:
        stock = java.torchserve_home()  # Java's frontend is in it, whoever's worker is used
        if options.stock_worker:
            return stock
    if of_vmargs:
        return vmargs.home_named(of_vmargs, "vmargs")
    return vmargs.home_named(of_key, "model_server_home") if of_key else java.worker_home()


def _rotate_logs(state: StateFolder) -> None:
    previous = state.path / "logs.previous"
    if state.logs.exists():
        shutil.rmtree(previous, ignore_errors=True)
        state.logs.rename(previous)
    state.logs.mkdir(parents=True)


def make_runtime_folder() -> Path:
    """Make a folder of our own for sockets and extracted models, with a path short enough for a socket.

    Raises:
        StartError: there is no place for one.
    """
    candidates = [tempfile.gettempdir(), "/tmp"]  # noqa: S108 (mkdtemp makes a private folder in it)
    for parent in candidates:
        folder = Path(tempfile.mkdtemp(prefix="torchmar-", dir=parent)).resolve()
        if len(str(folder).encode()) + _SOCKET_NAME_MAX <= _SOCKET_PATH_MAX:
            return folder
        folder.rmdir()
    raise StartError("no temporary folder with a path short enough for a socket", hint="set TMPDIR to a shorter one")


def _spawn(prepared: _Prepared, state: StateFolder) -> subprocess.Popen[bytes]:
    launch = prepared.launch
    # A foreground server is part of the command, however that ends; Linux alone has this.
    together = launch.console and sys.platform == "linux"
    try:
        with (state.logs / launch.output).open("wb") as log:
            return subprocess.Popen(
                launch.command(),
                cwd=state.path,
                env=without_given(launch.environment()),
                stdin=subprocess.DEVNULL,
                stdout=None if launch.console else log,
                stderr=log,
                # A session of its own: see processes.py; and Ctrl-C reaches us first.
                start_new_session=True,
                preexec_fn=ends_with_parent() if together else None,
            )
    except BaseException as error:
        shutil.rmtree(prepared.runtime_folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise StartError(f"{launch.program} cannot be started: {error}") from error
        raise


def _record(state: StateFolder, process: subprocess.Popen[bytes], prepared: _Prepared) -> ServerRecord:
    properties, launch = prepared.properties, prepared.launch
    has_grpc = launch.serves_grpc(properties)

    def grpc(api: str) -> str:
        return f"{properties[f'grpc_{api}_address']}:{properties[f'grpc_{api}_port']}" if has_grpc else ""

    return ServerRecord(
        name=state.name,
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        inference=properties["inference_address"],
        management=properties["management_address"],
        metrics=properties["metrics_address"],
        grpc_inference=grpc("inference"),
        grpc_management=grpc("management"),
        model_store=str(prepared.user_store),
        runtime_folder=str(prepared.runtime_folder),
        log_folder=str(state.logs),
        worker=java.worker_name(launch.home),
        trusted_store=prepared.trusted_store,
        frontend=launch.name,
        identity=identity_of(process.pid),
    )


def _end(record: ServerRecord, state: StateFolder, process: subprocess.Popen[bytes] | None, *, grace_s: float) -> int:
    """End the processes, then remove what they used."""
    ours = record.alive or (process is not None and process.poll() is None)
    killed = 0 if record.cluster else end_session(record.pid, leader_is_ours=ours, grace_s=grace_s)
    if process is not None:
        process.wait()
    # Only a folder that make_runtime_folder can have made: the record is a file that could be altered.
    if Path(record.runtime_folder).name.startswith("torchmar-"):
        shutil.rmtree(record.runtime_folder, ignore_errors=True)
    current = state.record()
    # Meanwhile another command may have stopped this server and started one of the same name.
    if current is None or (current.pid, current.started) == (record.pid, record.started):
        state.forget()
    return killed


def _as_asked(
    options: StartOptions,
    prepared: _Prepared,
    models: tuple[ModelVersion, ...],
    record: ServerRecord,
    state: StateFolder,
) -> tuple[ModelVersion, ...]:
    """Correct what the frontend does otherwise than asked: the number of workers, and which version is the default."""
    with management_client(record, state) as client:
        if not prepared.snapshot:  # it says which version is the default
            models = with_defaults(client, models, prepared.properties)
        return models if options.workers is None else _scale_to(options.workers, models, client)


def _scale_to(workers: int, models: tuple[ModelVersion, ...], client: ManagementClient) -> tuple[ModelVersion, ...]:
    """Scale to the command line's number, which wins over ``minWorkers`` of a model, which wins in the frontend."""
    for model in models:
        if model.min_workers != workers:
            client.scale(model.name, min_workers=workers, version=model.version)
    return tuple(version for name in dict.fromkeys(model.name for model in models) for version in client.describe(name))
