"""The processes of a server by what they do, and what each has taken of the processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import psutil

# How a process is known: its role, and what one of the first words of its command line begins or ends with.
_BEGINS = {
    "ray::ServeReplica:": "replica",
    "ray::ServeController": "controller",
    "ray::HAProxyManager": "manager",
    "ray::ProxyActor": "proxy",
    "ray::DashboardAgent": "agent",
    "ray::RuntimeEnvAgent": "agent",
    "ray-dashboard-": "dashboard",
    "ray::": "actor",
}
_ENDS = {
    "/gcs_server": "gcs",
    "/raylet": "raylet",
    "/model_service_worker.py": "worker",
    "/agent.py": "agent",
    "/agent/main.py": "agent",
    "/log_monitor.py": "agent",
    "/monitor.py": "dashboard",
    "/dashboard.py": "dashboard",
}
FRONT = "ray::ServeReplica:front:"
"""What the title of the application that answers all but predictions begins with."""


def role(name: str, words: list[str]) -> str:
    """Return what a process does, by its name and its command line; ``other`` if it is none of those we know."""
    if name == "haproxy":
        return "haproxy"
    if words[1:3] == ["-m", "serving.frontend"]:
        return "frontend"
    first = words[0] if words else ""
    if first.startswith(FRONT):
        return "front"
    for start, found in _BEGINS.items():
        if first.startswith(start):
            return found
    return next((found for word in words[:4] for end, found in _ENDS.items() if word.endswith(end)), "other")


class Taken(Counter[str]):
    """Seconds of the processor, by role."""


def processor(processes: Iterable[psutil.Process]) -> tuple[Taken, Counter[str]]:
    """Return what processes have taken until now, their ended children included, and how many each role has."""
    taken, number = Taken(), Counter[str]()
    for process in processes:
        with suppress(psutil.Error, OSError):
            times = process.cpu_times()
            name = role(process.name(), process.cmdline())
            taken[name] += times.user + times.system
            taken["other"] += times.children_user + times.children_system
            number[name] += 1
    return taken, number


def since(now: Taken, before: Taken) -> dict[str, float]:
    """Return what was taken in between, by role."""
    return {name: now[name] - before[name] for name in now}
