"""A worker in the process that the frontend started, without the prefork process."""

from __future__ import annotations

import select
import socket
import sys

from serving.protocol import Load, ProtocolError
from serving.worker.modes import dedicated
from serving.worker.modes.connection import Connection
from serving.worker.process import leftovers, stdin
from serving.worker.process.arguments import Arguments
from serving.worker.process.guardian import Guardian
from serving.worker.process.output import Output, say
from serving.worker.starting import torch_imports
from serving.worker.starting.child import leave

_ACCEPT_S = 30.0


def run(arguments: Arguments, listener: socket.socket) -> int:
    """Serve one connection of the frontend; do not return."""
    return leave(lambda: _serve(arguments, listener))


def _serve(arguments: Arguments, listener: socket.socket) -> int:
    torch_imports.prepare()
    sys.argv[1:] = []  # a handler that parses arguments must not see ours
    Output().install()
    with listener:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        stdin.watch(poll)
        ready = [fd for fd, _ in poll.poll(_ACCEPT_S * 1000)]
        if not ready:
            say(f"The frontend did not connect within {_ACCEPT_S:.0f} s")
            return 1
        if listener.fileno() not in ready:
            return 0
        sock, _ = listener.accept()
    leftovers.lead()
    leftovers.watch(sock)
    connection = Connection(sock)
    try:
        message = connection.receive()
    except ProtocolError as error:
        say(f"The frontend's first message cannot be read: {error}")
        return 1
    if message is None:
        return 0
    if not isinstance(message, Load):
        say("The frontend sent requests before a model to load")
        return 1
    guardian = Guardian(alone=True)
    guardian.start()
    guardian.watch_stdin()
    if arguments.asynchronous:
        from serving.worker.modes import asynchronous

        return asynchronous.serve(connection, message, arguments, 1)
    return dedicated.serve(connection, message, arguments, guardian, 1)
