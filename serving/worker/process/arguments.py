"""The command line that the frontend gives a worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_VALUES = {
    "--sock-type": "sock_type",
    "--sock-name": "sock_name",
    "--port": "port",
    "--host": "host",
    "--metrics-config": "metrics_config",
}


class Arguments(NamedTuple):
    """A parsed command line; not a dataclass, whose import would cost every thin process some milliseconds.

    Attributes:
        unix: path of the unix socket to listen on; empty for TCP.
        host: to listen on with TCP.
        port: to listen on with TCP; 0 with a unix socket.
        metrics_config: path of metrics.yaml; empty if not given.
        asynchronous: whether the frontend speaks its asynchronous mode.
        rank: ``LOCAL_RANK``: number of this process among those that torchrun started for one worker.
    """

    unix: str
    host: str
    port: int
    metrics_config: str
    asynchronous: bool
    rank: int


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Arguments:
    """Parse the command line; a rank listens on the port, or the socket's number, plus its own.

    Raises:
        ValueError: it is not one that the frontend gives.
    """
    found: dict[str, str] = {}
    asynchronous = False
    items = iter(argv)
    for item in items:
        name, separator, value = item.partition("=")
        if item == "--async":
            asynchronous = True
        elif name in _VALUES:
            found[_VALUES[name]] = value if separator else _next(items, name)
        else:
            raise ValueError(f"unknown argument {item!r}; the frontend starts this file, people do not")
    rank = _number(environ.get("LOCAL_RANK") or "0", "LOCAL_RANK")
    kind = found.get("sock_type", "")
    if kind == "unix":
        path = found.get("sock_name", "")
        stem, dot, number = path.rpartition(".")
        if not dot or not number.isdigit():
            raise ValueError(f"--sock-name {path!r}: a path that ends with a dot and a number is expected")
        unix, host, port = f"{stem}.{int(number) + rank}", "", 0
    elif kind == "tcp":
        unix, host = "", found.get("host") or "127.0.0.1"
        port = _number(found.get("port", ""), "--port") + rank
    else:
        raise ValueError(f"--sock-type {kind!r}: unix or tcp is expected")
    return Arguments(unix, host, port, found.get("metrics_config", ""), asynchronous, rank)


def _next(items: object, name: str) -> str:
    value = next(items, None)  # type: ignore[call-overload]
    if value is None:
        raise ValueError(f"{name} lacks its value")
    return str(value)


def _number(text: str, name: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{name} {text!r}: a number is expected")
    return int(text)
