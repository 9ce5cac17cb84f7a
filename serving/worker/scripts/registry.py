"""Which process does the work of which worker; asked for by the collector of system metrics."""

from __future__ import annotations

from serving.worker.process import rendezvous


def backends(owner: int, within_s: float = rendezvous.TIMEOUT_S) -> dict[int, tuple[int, int]]:
    """Ask the prefork process of a server which processes serve which workers.

    Args:
        owner: pid of the frontend.
        within_s: seconds that it may take; it imports modules in between, which takes some.

    Returns:
        For each thin process, by pid: the pid of the process that serves it, and how many that one serves. Empty if
        there is no prefork process.

    Raises:
        OSError, ValueError: it does not answer, or not so.
    """
    if not rendezvous.supported:
        return {}
    connection = rendezvous.connect(rendezvous.address(owner))
    if connection is None:
        return {}
    with connection:
        rendezvous.send(connection, {"query": "backends"})
        received = rendezvous.receive(connection, within_s)
    return dict(received[0]["backends"]) if received else {}
