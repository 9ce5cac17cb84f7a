"""Clients that keep the models busy and judge every answer."""

from __future__ import annotations

import http.client
import json
import random
import select
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.soak_bench.models import DEDICATED, RESPONSE_TIMEOUT_S, SHARED

CLIENTS = 11
_SHARES = {DEDICATED: 3 / 11, SHARED: 8 / 11}
# Without a worker, requests wait until there is one: after an import of torch, while clients and kills go on.
ANSWER_S = RESPONSE_TIMEOUT_S + 40.0
_PAUSE_S = 0.04  # between two requests, at the most: two cores have to do
_SAY_EVERY = 20
_SLEEP_MS = (5.0, 20.0)


@dataclass
class Tally:
    """The outcome of the requests of one model.

    Attributes:
        seconds: until the answer, whatever it was.
        failures: requests without an answer, or with a wrong one, in words.
        refused: statuses of the answers that were errors, by the requests' names.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    failures: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, name: str, status: int, seconds: float, failure: str) -> None:
        """Note one request; status 0 for no answer."""
        with self._lock:
            if status:
                self.statuses[status] += 1
                self.seconds.append(seconds)
            if status not in (0, 200):
                self.refused[name] = status
            if failure:
                self.failures.append(failure)

    @property
    def good_share(self) -> float:
        """Return the share of answers with status 200."""
        return self.statuses[200] / max(1, self.statuses.total())


class Client(threading.Thread):
    """A client that sends requests in turn over a kept-alive connection, each with a name that its answer must have.

    Args:
        address: of the inference API.
        name: of the client; its requests' names begin with it, and so does the order of what it sends with ``seed``.
    """

    def __init__(self, address: str, model: str, name: str, seed: int, tally: Tally) -> None:
        super().__init__(name=name, daemon=True)
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
        self._path = f"/predictions/{model}"
        self._random = random.Random(f"{seed} {name}")  # noqa: S311 (a run that can be repeated is what is wanted)
        self._tally = tally
        self._stopping = threading.Event()
        self._count = 0

    def stop(self) -> None:
        """Let it end when it has the answer that it waits for."""
        self._stopping.set()

    def run(self) -> None:
        """Send until it is stopped."""
        while not self._stopping.is_set():
            sleep_ms = self._random.choice((0.0, 0.0, self._random.uniform(*_SLEEP_MS)))
            self.ask(sleep_ms=sleep_ms, say=self._count % _SAY_EVERY == 0)
            self._stopping.wait(self._random.uniform(0, _PAUSE_S))
        self._connection.close()

    def ask(self, *, sleep_ms: float = 0.0, say: bool = False) -> tuple[str, int]:
        """Send a request and note what comes back.

        Returns:
            The request's name, and the pid of the process that answered, 0 if none did well.
        """
        self._count += 1
        name = f"{self.name}-{self._count}"
        body = json.dumps({"id": name, "sleep_ms": sleep_ms, "say": say})
        self._close_if_ended()
        begin = time.monotonic()
        status = pid = 0
        try:
            headers = {"Content-Type": "application/json", "X-Request-Id": name}
            self._connection.request("POST", self._path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
            status = response.status
            failure, pid = judge(name, status, content)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            failure = f"no answer after {time.monotonic() - begin:.1f} s: {type(error).__name__}: {error}"
        self._tally.add(name, status, time.monotonic() - begin, f"{name}: {failure}" if failure else "")
        return name, pid

    def _close_if_ended(self) -> None:
        """Close a connection that the server may have closed between two requests: then there is no answer missing."""
        sock = self._connection.sock
        if sock is not None and select.select([sock], [], [], 0)[0]:
            self._connection.close()


def judge(name: str, status: int, content: bytes) -> tuple[str, int]:
    """Return what is wrong with the answer to a request, in words, and the pid that it names (0 for an error's answer).

    While workers are killed the frontend may answer with any status from 500 on.
    """
    if status != 200:
        return ("" if status >= 500 else f"status {status}: {content[:100]!r}"), 0
    try:
        answer = json.loads(content)
        answered, pid = answer["id"], int(answer["pid"])
    except (ValueError, KeyError, TypeError):
        return f"an answer that cannot be read: {content[:100]!r}", 0
    return ("" if answered == name else f"the answer to {answered}"), pid


@contextmanager
def load(
    address: str, seed: int, label: str, tallies: Mapping[str, Tally], connections: int = CLIENTS
) -> Iterator[None]:
    """Keep all clients busy meanwhile; when it ends, every request has been answered, or given up."""
    clients = [
        Client(address, model, f"{model}-{label}-{number}", seed, tallies[model])
        for model, share in _SHARES.items()
        for number in range(max(1, round(share * connections)))
    ]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        for client in clients:
            client.stop()
    for client in clients:  # not if the run is given up
        client.join(ANSWER_S + 5.0)
