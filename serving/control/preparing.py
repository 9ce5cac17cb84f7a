"""What is settled, and checked, before a server's process is started."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from archive_tool import files
from archive_tool.errors import InputError, TorchmarError
from serving.control import clusters
from serving.control.configuration import access, few_cores, frontends, java, ports, settings, vmargs
from serving.control.configuration import config as configuration
from serving.control.keys import given_keys, write_given
from serving.control.models import snapshots, trust
from serving.control.models.store import Selection, restored, select
from serving.control.runtime_folder import make_runtime_folder
from serving.control.state import StateFolder

_KEYS_OFF: Final = "disable_token_authorization"


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
    multi_model: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A server that can be started.

    Attributes:
        launch: its process.
        selection: its models, and the store that the frontend reads.
        user_store: the model store that the user has named.
        snapshot: name of the snapshot that it restores; empty without one.
    """

    launch: frontends.Launch
    selection: Selection
    user_store: Path
    snapshot: str

    @property
    def properties(self) -> Mapping[str, str]:
        """The settings."""
        return self.launch.properties

    @property
    def cluster(self) -> str:
        """Address of the Ray cluster that it is deployed to; empty for a server of this machine."""
        return self.properties.get(frontends.RAY_ADDRESS, "") if self.launch.name == "ray" else ""

    @property
    def runtime_folder(self) -> Path:
        """For sockets and extracted models; ours alone."""
        return self.launch.runtime_folder

    @property
    def trusted_store(self) -> str:
        """The store of checked copies; empty where any archive is served."""
        return "" if self.user_store == self.selection.store else str(self.selection.store)


def prepare(options: StartOptions, state: StateFolder, warn: Callable[[str], None]) -> Prepared:
    """Check everything that can be checked before a process is started, and write down what it is to read.

    Args:
        options: of the command line.
        state: of the server; locked.
        warn: gets what is allowed but unwise, or ignored.

    Raises:
        InputError, ArchiveError: a configuration, an archive or a key cannot be used.
        PortInUseError: a port that it needs is taken.
        StartError: it would listen beyond loopback without keys, what it needs is not installed, or the Ray cluster
            that it is for does not answer.
    """
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
    if frontend == "ray":
        frontends.check_ray()
        if address := properties.get(frontends.RAY_ADDRESS):
            clusters.reach(address)
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
        multi_model=options.multi_model,
    )
    if isinstance(launch, frontends.JavaLaunch):
        launch = replace(launch, vm_options=few_cores.vm_options(vm_arguments.options))
    return Prepared(launch, selection, user_store, snapshot.name if snapshot else "")


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
    written = configuration.read_properties(config_file) if config_file else {}
    # A file that nobody named is one of a server of this machine: nodes of a cluster are not open for its sake.
    unasked = options.frontend == "ray" and options.ts_config is None
    opened = "" if not unasked or configuration.token_authorization(written) else written.pop(_KEYS_OFF)
    user = {**written, **options.settings}
    port = None if options.port == "auto" else options.port
    with _naming(config_file, written.keys() - options.settings.keys()):
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
        if properties[frontends.KEY] != "java":
            frontends.refuse_plugins(properties)
            frontends.refuse_client_certificates(properties)
    if opened and configuration.token_authorization(properties):
        warn(
            f"{_KEYS_OFF}={opened} of {config_file} does not hold here: requests need a key "
            "(--ts-config would take the whole file)"
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
    for key in () if unasked else frontends.javas_own(told):
        warn(f"{config_file}: {key} has no meaning for the Python frontend")
    return properties


@contextmanager
def _naming(config_file: Path | None, keys: Iterable[str]) -> Iterator[None]:
    """Have an error about a setting say which file has it: it may be one that nobody named."""
    try:
        yield
    except TorchmarError as error:
        if config_file is not None and any(f"{key}=" in f"{error.message} {error.hint}" for key in keys):
            error.where = f"{error.where}, by {config_file}" if error.where else str(config_file)
        raise


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
