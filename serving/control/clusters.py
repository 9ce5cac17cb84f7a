"""Servers that were deployed to a cluster: they have no process here, and stay until they are taken off it."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from typing import Final

from archive_tool.errors import InputError
from serving.control.processes import end_session
from serving.control.state import ServerRecord
from serving.errors import NotRunningError, ServingError, StartError

# A machine that is there answers, or refuses, much sooner.
_REACHED_S: Final = 5.0
_LEAVING_S: Final = 10.0
# Beside what answers may take: a replica for which there was no room takes two minutes to be given up.
_REMOVING_S: Final = 150.0


def reach(address: str) -> None:
    """Make sure that something answers at a cluster's address: Ray itself would try for long, and say nothing.

    Args:
        address: ``HOST:PORT``, ``ray://HOST:PORT``, or ``auto``, which Ray finds by itself.

    Raises:
        InputError: it is no address of a cluster.
        StartError: nothing answers there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(
            f"not the address of a Ray cluster: {address}",
            hint="write HOST:PORT, or auto for the cluster of this machine; without --address one is started here",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHED_S).close()
    except (OSError, UnicodeError) as error:
        raise StartError(
            f"no Ray cluster answers at {address}: {getattr(error, 'strerror', None) or error}",
            hint="ray start --head begins one, and says its address; auto is that of this machine",
        ) from error


def left(record: ServerRecord, address: str) -> ServerRecord:
    """End the process that has deployed a server, which the cluster has now; return its record."""
    end_session(record.pid, leader_is_ours=record.alive, grace_s=_LEAVING_S)
    return replace(record, pid=0, started=0.0, identity="", cluster=address)


def remove(address: str, name: str, *, grace_s: float) -> bool:
    """Take all that was deployed off a cluster, once it has answered what it took.

    Args:
        address: of the cluster.
        name: of the server.
        grace_s: seconds that answers may take.

    Returns:
        Whether there was anything of that server.

    Raises:
        ServingError: it cannot be done.
    """
    reach(address)
    command = [sys.executable, "-m", "serving.frontend.ray", "--remove", address, name]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=grace_s + _REMOVING_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServingError(
            f"the cluster {address} does not answer", hint="try again, or see its own commands"
        ) from None
    if done.returncode == NotRunningError.exit_code:
        return False
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise ServingError(f"the models cannot be taken off the cluster {address}: {said[-1] if said else 'no reason'}")
    return True
