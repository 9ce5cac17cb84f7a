"""Which frontend a server has, TorchServe's in Java or torchmar's own in Python, and how each is started."""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final

from archive_tool.errors import InputError
from serving.control.configuration import settings
from serving.control.configuration.config import ModelSpec, response_timeout
from serving.control.configuration.java import (
    WORKER_SCRIPT,
    java_home,
    log_config,
    torchserve_home,
    worker_name,
)
from serving.errors import StartError

#: Key of config.properties and variable of the environment that choose the frontend.
KEY: Final = "torchmar_frontend"
VARIABLE: Final = "TORCHMAR_FRONTEND"
MAIN_CLASS: Final = "org.pytorch.serve.ModelServer"
# The frontend's libraries use what newer runtimes warn about; older ones do not know these options.
QUIET_OPTIONS: Final = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)
#: Key of config.properties that switches gRPC off for the Python frontend, or demands it.
GRPC: Final = "torchmar_grpc"
INSTALL_GRPC: Final = "pip install 'torchmar[grpc]'"
# The packages of the extra `grpc`.
_GRPC_PACKAGES: Final = ("grpc", "google.protobuf")
#: Keys that steer Netty, the JVM or what stands on them.
JAVAS_OWN: Final = frozenset(
    {
        "async_logging",
        "cpp_log_config",
        "io_ratio",
        "keystore",
        "keystore_pass",
        "keystore_type",
        "netty_client_threads",
        "number_of_netty_threads",
        "plugins_path",
        "prefer_direct_buffer",
        "vmargs",
        "workflow_store",
    }
)


@dataclass(frozen=True)
class Launch(ABC):
    """What is needed to start a frontend.

    Attributes:
        config: the effective config.properties.
        model_store: absolute path.
        runtime_folder: for sockets and extracted models; short, ours alone.
        home: the ``model_server_home``: whose worker it starts; an absolute path.
        log_folder: where it writes its logs.
        properties: what ``config`` holds.
        models: loaded at the start; empty leaves it to the configuration.
        load_all: load every archive of the model store.
        snapshots: write one of the models at each change; none is read but what the configuration holds.
        console: log to standard output as well.
        given_keys: file of the keys that it is to ask for; None where it makes them. It and what follows are of the
            Python frontend alone.
        multi_model: folder below which SageMaker may load models; None where it may not.
    """

    config: Path
    model_store: Path
    runtime_folder: Path
    home: Path
    log_folder: Path
    properties: Mapping[str, str] = field(default_factory=dict)
    models: Sequence[ModelSpec] = ()
    load_all: bool = False
    snapshots: bool = True
    console: bool = False
    given_keys: Path | None = None
    multi_model: Path | None = None

    #: What it is called on the command line.
    name: ClassVar[str]
    #: What it runs in.
    program: ClassVar[str]
    #: The file, beside the logs, of what it prints itself.
    output: ClassVar[str]
    #: Whether it answers at its metrics' address.
    has_metrics: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def serves_grpc(cls, properties: Mapping[str, str]) -> bool:
        """Return whether it listens for gRPC.

        Raises:
            InputError: it is told to, and cannot.
        """

    @abstractmethod
    def own_command(self) -> list[str]:
        """Return the argument vector of the frontend itself.

        Raises:
            StartError: it is not installed, or what it runs in is missing.
        """

    def command(self) -> list[str]:
        """Return the argument vector.

        Raises:
            StartError: something is missing.
        """
        command = self.own_command()
        if sys.platform == "linux" and worker_name(self.home) == "torchmar":
            # Our worker's script starts what the workers share, and becomes the frontend: torch is imported meanwhile.
            return [sys.executable, str(self.home / WORKER_SCRIPT), "--server", *command]
        return command

    def environment(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the server's environment: the caller's, our log folder, and nothing that overrides our command line.

        Args:
            environ: the caller's environment; ``TS_<KEY>`` of the configuration has been taken into that already.

        Raises:
            InputError: a setting that the workers must know cannot be read.
        """
        dropped = {"TS_MODEL_SERVER_HOME", "TS_CONFIG_FILE", *(f"TS_{key.upper()}" for key in self.properties)}
        kept = {name: value for name, value in environ.items() if name not in dropped}
        # A native crash of a worker then names the line of Python it happened in.
        kept.setdefault("PYTHONFAULTHANDLER", "1")
        return kept | {
            "LOG_LOCATION": str(self.log_folder),
            "METRICS_LOCATION": str(self.log_folder),
            # The frontend tells its workers only what a model's own configuration says.
            "TORCHMAR_RESPONSE_TIMEOUT": str(response_timeout(self.properties)),
        }


@dataclass(frozen=True)
class JavaLaunch(Launch):
    """TorchServe's frontend.

    Attributes:
        vm_options: of the user's ``vmargs``.
    """

    vm_options: Sequence[str] = ()

    name = "java"
    program = "Java"
    output = "java.log"

    @classmethod
    def serves_grpc(cls, properties: Mapping[str, str]) -> bool:  # noqa: ARG003, D102
        return True

    def own_command(self) -> list[str]:  # noqa: D102
        frontend = torchserve_home() / "ts" / "frontend"
        plugins = self.properties.get("plugins_path", "")
        command = [
            str(java_home() / "bin" / "java"),
            *QUIET_OPTIONS,
            f"-Dmodel_server_home={self.home}",
            f"-Djava.io.tmpdir={self.runtime_folder}",
            f"-Dlog4j.configurationFile={log_config().as_uri()}",
            f"-Dtorchmar.console={'INFO' if self.console else 'OFF'}",
            *self.vm_options,
            "-cp",
            os.pathsep.join(filter(None, (str(frontend / "*"), plugins))),
            MAIN_CLASS,
            "--python",
            sys.executable,
            "-f",
            str(self.config),
            "-s",
            str(self.model_store),
        ]
        if not self.snapshots:
            command.append("-ncs")
        if self.load_all:
            command += ["-m", "ALL"]
        elif self.models:
            command += ["-m", *map(str, self.models)]
        return command


@dataclass(frozen=True)
class PythonLaunch(Launch):
    """torchmar's own frontend."""

    name = "python"
    program = "Python"
    output = "frontend.log"
    module: ClassVar[str] = "serving.frontend"

    @classmethod
    def serves_grpc(cls, properties: Mapping[str, str]) -> bool:  # noqa: D102
        return serves_grpc(properties)

    def own_command(self) -> list[str]:  # noqa: D102
        options = {
            "--config": self.config,
            "--model-store": self.model_store,
            "--home": self.home,
            "--runtime": self.runtime_folder,
            "--logs": self.log_folder,
        }
        command = [sys.executable, "-m", self.module]
        command += [text for option, path in options.items() for text in (option, str(path))]
        if not self.snapshots:
            command.append("--no-snapshots")
        if self.console:
            command.append("--console")
        for option, path in (("--given-keys", self.given_keys), ("--multi-model", self.multi_model)):
            if path is not None:
                command += [option, str(path)]
        if self.load_all:
            command.append("--load-all")
        elif self.models:
            command += ["--models", *map(str, self.models)]
        return command


@dataclass(frozen=True)
class RayLaunch(PythonLaunch):
    """torchmar's applications on Ray Serve: what deploys them, and stays where the cluster is its own."""

    name = "ray"
    module = "serving.frontend.ray"
    has_metrics = False

    @classmethod
    def serves_grpc(cls, properties: Mapping[str, str]) -> bool:  # noqa: ARG003, D102
        return False

    def command(self) -> list[str]:  # noqa: D102
        # Nothing is prepared for workers: they are started by the replicas, each of which is a server of its own.
        return self.own_command()


LAUNCHES: Final[dict[str, type[Launch]]] = {launch.name: launch for launch in (JavaLaunch, PythonLaunch, RayLaunch)}
#: Key of config.properties: the Ray cluster that is deployed to; without it one is started on this machine.
RAY_ADDRESS: Final = "torchmar_ray_address"
#: The same: the server's name, of which a cluster has one.
RAY_SERVER: Final = "torchmar_ray_server"
#: File of the runtime folder: all models that were asked for have been deployed, or have failed.
DEPLOYED: Final = "deployed"
#: Likewise: the cluster had nothing of ours before this deployment, so all that it has is of this one.
FIRST: Final = "first"
INSTALL_RAY: Final = "pip install 'torchmar[ray]'"


def chosen(
    option: str | None,
    properties: Mapping[str, str],
    environ: Mapping[str, str] = os.environ,
    last: str | None = None,
) -> str:
    """Return the frontend that is asked for: by the command line, the environment, or the configuration.

    Args:
        option: of the command line; None without one.
        properties: checked ones.
        environ: the caller's environment.
        last: of the run that is restored; None for none.

    Raises:
        InputError: the environment names none that there is.
    """
    if option is not None:
        return option
    if text := environ.get(VARIABLE, "").strip():
        return settings.frontend(text, f"{VARIABLE}={text}")
    return properties.get(KEY) or last or JavaLaunch.name


def javas_own(properties: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys of a configuration that mean nothing to any frontend but Java's."""
    # A workflow store that holds nothing is how `torchmar start` switches workflows off.
    return tuple(sorted(key for key in JAVAS_OWN & properties.keys() if properties[key] != os.devnull))


def grpc_is_off(properties: Mapping[str, str]) -> bool:
    """Return whether gRPC is switched off for the Python frontend."""
    return GRPC in properties and not settings.is_true(properties, GRPC)


def serves_grpc(properties: Mapping[str, str]) -> bool:
    """Return whether the Python frontend serves gRPC: the extra is installed, and it is not switched off.

    Raises:
        InputError: it is demanded, and the extra is not installed.
    """
    if grpc_is_off(properties):
        return False
    if all(map(is_installed, _GRPC_PACKAGES)):
        return True
    if GRPC in properties:
        raise InputError(
            f"{GRPC}={properties[GRPC]}: the packages that gRPC takes are not installed", hint=INSTALL_GRPC
        )
    return False


def is_installed(package: str) -> bool:
    """Whether a package can be imported; nothing of it is, but those above it."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


def check_ray() -> None:
    """Make sure that Ray Serve is there; nothing of it is imported.

    Raises:
        StartError: it is not installed.
    """
    if not is_installed("ray"):
        raise StartError("Ray Serve is not installed", hint=INSTALL_RAY)


def refuse_plugins(properties: Mapping[str, str]) -> None:
    """Make sure that nothing is left out that somebody relies on: a plugin may be what asks for a password.

    Raises:
        InputError: the configuration names plugins, which only Java can load.
    """
    if plugins := properties.get("plugins_path"):
        raise InputError(
            f"plugins_path={plugins}: plugins are written in Java, and the Python frontend has none",
            hint="remove plugins_path, or use TorchServe's frontend: torchmar start --frontend java",
        )


#: How keys are called that would have clients show a certificate, here or with other servers; TorchServe has none.
_CLIENT_CERTIFICATES: Final = re.compile(
    r"trust_?store|client_?(auth|cert|ca\b|ca_)|mutual|mtls|(^|_)ca_?(cert|file)", re.IGNORECASE
)


def refuse_client_certificates(properties: Mapping[str, str]) -> None:
    """Make sure that nobody relies on mutual TLS, which is not there: the server would let in everybody.

    Raises:
        InputError: a key of the configuration asks for it.
    """
    for key, value in properties.items():
        if key not in settings.KEYS and _CLIENT_CERTIFICATES.search(key):
            raise InputError(
                f"{key}={value}: the Python frontend asks no client for a certificate (mutual TLS)",
                hint=f"remove {key}, and put a proxy in front that does, or have keys asked for: --enable-model-api",
            )
