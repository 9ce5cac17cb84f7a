"""Which ports are free, and which processes hold the others."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack

import psutil

from serving.control.configuration.config import Listener
from serving.errors import PortInUseError, StartError


def check_free(wanted: Sequence[Listener]) -> None:
    """Bind each port for a moment.

    Raises:
        PortInUseError: a port is taken; names the setting and, where the system tells, the process.
        StartError: a host or port cannot be bound for another reason.
    """
    taken = [entry for entry in wanted if not _is_free(entry)]
    if not taken:
        return
    lines = [f"{entry.host}:{entry.port} ({entry.setting}){_owner(entry.port)}" for entry in taken]
    raise PortInUseError(
        f"port{'s' if len(taken) > 1 else ''} in use: {'; '.join(lines)}",
        hint="stop it, or start on other ports: --port auto (or --port N for N to N+4)",
    )


def _is_free(entry: Listener) -> bool:
    if entry.port == 0:
        return True
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            entry.host, entry.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartError(f"no such host: {entry.host} ({entry.setting})") from error
    with socket.socket(family, kind, number) as probe:
        # As Java does on Linux: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise StartError(
                f"cannot listen on {entry.host}:{entry.port} ({entry.setting}): {error.strerror}",
                hint="choose another address or a port above 1023",
            ) from error
    return True


def _owner(port: int) -> str:
    try:
        for pid in _listening(port):
            return f" by {psutil.Process(pid).name()} (pid {pid})"
    except (psutil.Error, OSError):
        pass  # other people's processes are not ours to see
    return ""


def is_anothers(port: int | None, session: int) -> bool:
    """Return whether processes listen at a port, none of which is of that session.

    False where the system does not tell, and without a port: a unix socket is in a file.
    """
    if port is None:
        return False
    try:
        sessions = [os.getsid(pid) for pid in _listening(port)]
    except (psutil.Error, OSError):
        return False
    return bool(sessions) and session not in sessions


def _listening(port: int) -> list[int]:
    """Return the processes that listen at a port, as far as they are ours to see."""
    return [
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if connection.pid
    ]


def choose_free(host: str, count: int) -> list[int]:
    """Return free ports; all are held at once while choosing, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(_family(host))) for _ in range(count)]
        for entry in sockets:
            entry.bind((host, 0))
        return [int(entry.getsockname()[1]) for entry in sockets]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
