"""How a worker's process is started: its command line and its environment, as TorchServe's frontend has them.

Contract of WorkerLifeCycle.java and EnvironmentUtils.java, TorchServe 0.12.0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from serving.control.configuration.java import WORKER_SCRIPT

# A home among installed packages is found by the interpreter itself.
_INSTALLED = ("site-packages", "dist-packages")


def command_of(home: Path, socket: str | int, metrics: str | None = None, *, asynchronous: bool = False) -> list[str]:
    """Return the worker's script and its arguments; an interpreter, or torchrun, is to stand before them.

    Args:
        home: the ``model_server_home`` that has the script.
        socket: where it will listen: a path, or a port of the loopback interface.
        metrics: file of the metrics' configuration; None for that of the home.
        asynchronous: whether requests are sent while others run.
    """
    where = ["--sock-type", "unix", "--sock-name", socket]
    if isinstance(socket, int):
        where = ["--sock-type", "tcp", "--port", str(socket)]
    command = [str(home / WORKER_SCRIPT), *map(str, where)]
    command += ["--metrics-config", metrics or str(home / "ts" / "configs" / "metrics.yaml")]
    return [*command, "--async"] if asynchronous else command


def environment_of(
    home: Path,
    folder: Path,
    handler: str | None,
    environ: Mapping[str, str] = os.environ,
    *,
    decode: bool = True,
    ipex: bool = False,
    ipex_gpu: bool = False,
) -> dict[str, str]:
    """Return the environment of a worker: the one given, and where its modules are.

    Args:
        home: the ``model_server_home``.
        folder: of the model.
        handler: of the model; ``folder/file.py:function`` adds the file's folder.
        environ: what the worker inherits.
        decode: whether handlers get texts and JSON decoded.
        ipex: whether it is to use Intel's extension.
        ipex_gpu: likewise on a GPU.
    """
    path = [module_folder(handler), environ.get("PYTHONPATH", ""), str(folder.resolve())]
    if folder.is_symlink():
        path.append(str(folder.parent))
    if not any(name in str(home) for name in _INSTALLED):
        path.append(str(home))
    flags = {"TS_DECODE_INPUT_REQUEST": decode, "TS_IPEX_ENABLE": ipex, "TS_IPEX_GPU_ENABLE": ipex_gpu}
    found = {**environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    return found | {name: str(value).lower() for name, value in flags.items()}


def module_folder(handler: str | None) -> str:
    """Return the further folder of modules that a handler's name means; empty for none."""
    if not handler or ":" not in handler:
        return ""
    file = handler.partition(":")[0]
    return file.rpartition("/")[0] or file
