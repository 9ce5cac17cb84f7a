"""What of this machine's processors a load and its server had: what the figures are worth."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

import psutil

from serving import cores
from serving.bench.loads import Place
from serving.bench.tally import Figures

#: Shares from which on there is nothing left.
FULL_CORE: Final = 0.9
FULL_MACHINE: Final = 0.95


class Processors:
    """How busy this machine's processors are, from now on."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def busy(self) -> float:
        """Return the share since the last call, or since the beginning: 0 to 1."""
        before, self._before = self._before, psutil.cpu_times()
        parts = {name: getattr(self._before, name) - getattr(before, name) for name in self._before._fields}
        # These are counted among user's and nice's, too.
        whole = sum(value for name, value in parts.items() if name not in ("guest", "guest_nice"))
        idle = parts["idle"] + parts.get("iowait", 0.0)
        return max(0.0, 1 - idle / whole) if whole > 0 else 0.0


def is_here(place: Place) -> bool:
    """Whether a server is on this machine: a unix socket's is, and one whose address is ours to listen at."""
    if place.socket_path:
        return True
    try:
        family, kind, _, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)[0]
        if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            return True
        with socket.socket(family, kind) as tried:
            tried.bind((address[0], 0))
    except (OSError, ValueError):
        return False
    return True


def warnings(figures: Figures, busy: float | None) -> list[str]:
    """Return what speaks against the figures.

    Args:
        figures: of a load.
        busy: the share of this machine's processors that was busy meanwhile, where the server is on it, too.
    """
    found = []
    if figures.own_core >= FULL_CORE:
        found.append(
            f"the load's own process was busy {figures.own_core:.0%} of the time: the figures are its limit, not the "
            "server's; load the server from several machines, or with larger requests"
        )
    if busy is not None and busy >= FULL_MACHINE:
        share = figures.own_core / cores.available()
        found.append(
            f"the server is on this machine, whose processors were busy {busy:.0%} of the time, {share:.0%} with the "
            "load itself: from another machine the server would answer more"
        )
    return found
