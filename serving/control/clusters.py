"""Servers that were deployed to a cluster: they have no process here, and stay until they are taken off it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Final

from serving.control.processes import end_session
from serving.control.state import ServerRecord
from serving.errors import ServingError

_LEAVING_S: Final = 10.0
# Beside what answers may take.
_REMOVING_S: Final = 60.0


def left(record: ServerRecord, address: str) -> ServerRecord:
    """End the process that has deployed a server, which the cluster has now; return its record."""
    end_session(record.pid, leader_is_ours=record.alive, grace_s=_LEAVING_S)
    return replace(record, pid=0, started=0.0, identity="", cluster=address)


def remove(address: str, *, grace_s: float) -> None:
    """Take all that was deployed off a cluster, once it has answered what it took.

    Raises:
        ServingError: it cannot be done.
    """
    command = [sys.executable, "-m", "serving.frontend.ray", "--remove", address]
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
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise ServingError(f"the models cannot be taken off the cluster {address}: {said[-1] if said else 'no reason'}")
