"""Clients that ask as fast as they are answered, and remember what went wrong and when."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Question:
    """A request, and whether an answer to it is the right one."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    right: Callable[[bytes], bool]


@dataclass(frozen=True)
class Failure:
    """A request that was not answered as it should be.

    Attributes:
        at: by the monotonic clock.
        what: status and body, or the error.
    """

    at: float
    what: str


@dataclass
class Load:
    """What the clients have seen so far."""

    answered: int = 0
    failures: list[Failure] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    def since(self, begin: float) -> list[Failure]:
        """Return the failures since a moment."""
        return [failure for failure in self.failures if failure.at >= begin]

    def until_answered(self, count: int, timeout_s: float) -> bool:
        """Wait until as many more have been answered; say whether they have."""
        goal, until = self.answered + count, time.monotonic() + timeout_s
        while self.answered < goal and time.monotonic() < until:
            time.sleep(0.05)
        return self.answered >= goal

    def _client(self, address: str, questions: Sequence[Question], number: int) -> None:
        at = urlsplit(address)
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=_TIMEOUT_S)
        while not self._stop.is_set():
            number += 1
            question = questions[number % len(questions)]
            try:
                connection.request("POST", question.path, question.body, dict(question.headers))
                response = connection.getresponse()
                body = response.read()
                wrong = "" if response.status == 200 and question.right(body) else f"{response.status} {body[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A connection that waited for its next request may be closed at any moment: that one was never asked.
                wrong = "" if isinstance(error, http.client.RemoteDisconnected) else f"{type(error).__name__}: {error}"
                if not wrong:
                    continue
            with self._lock:
                if wrong:
                    self.failures.append(Failure(time.monotonic(), f"{question.path}: {wrong}"))
                else:
                    self.answered += 1
            if wrong:
                time.sleep(0.1)
        connection.close()

    @contextmanager
    def running(self, address: str, questions: Sequence[Question], clients: int) -> Iterator[Load]:
        """Ask meanwhile."""
        threads = [
            threading.Thread(target=self._client, args=(address, questions, number)) for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
