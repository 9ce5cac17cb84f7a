"""What a load is: where to, what, how much, for how long."""

from __future__ import annotations

import base64
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where the requests go.

    Attributes:
        socket_path: of a unix socket; host and port then say nothing.
        tls: whether the connection is encrypted.
        authorities: file with the certificates that the server's must lead to; None to take whichever it has.
    """

    host: str
    port: int
    socket_path: str | None = None
    tls: bool = False
    authorities: str | None = None


@dataclass(frozen=True)
class Load:
    """A load.

    Attributes:
        requests: whole HTTP/1.1 requests, sent in turn.
        connections: how many are open; with a rate, at the most.
        seconds: during which requests begin; in a closed loop, from the first connection on.
        rate: requests a second, whatever the server does (an open loop); None to send the next one on each connection
            as soon as the answer to the last is there (a closed loop).
        steady: with a rate, begin them at equal distances; else as many independent users do, at random.
        timeout_s: for an answer.
        slo_s: what an answer may take, to count those that keep it.
    """

    place: Place
    requests: tuple[bytes, ...]
    connections: int
    seconds: float
    rate: float | None = None
    steady: bool = False
    timeout_s: float = 30.0
    slo_s: float | None = None

    def starts(self) -> Iterator[float]:
        """Yield when requests begin, in seconds from the beginning: the same times for the same load."""
        if self.rate is None:
            return
        if self.steady:
            yield from (number / self.rate for number in range(math.ceil(self.rate * self.seconds - 1e-9)))
            return
        drawn = random.Random(1)  # noqa: S311 - no secret
        at = drawn.expovariate(self.rate)
        while at < self.seconds:
            yield at
            at += drawn.expovariate(self.rate)

    def to_json(self) -> str:
        """Write it as one line."""
        bodies = [base64.b64encode(request).decode() for request in self.requests]
        return json.dumps(asdict(self) | {"requests": bodies})

    @classmethod
    def from_json(cls, text: str | bytes) -> Load:
        """Read what `to_json` has written."""
        document: dict[str, Any] = json.loads(text)
        requests = tuple(base64.b64decode(request) for request in document.pop("requests"))
        return cls(place=Place(**document.pop("place")), requests=requests, **document)
