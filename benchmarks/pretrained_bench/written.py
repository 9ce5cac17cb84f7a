"""Clients that have texts written, each on a connection of its own, and the figures of such a load."""

from __future__ import annotations

import http.client
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.serving_bench import driver

_TIMEOUT_S = 120.0
_AGAIN_S = 0.1  # after a request that nobody answered
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Figures(driver.Figures):
    """The figures of a load of texts.

    Attributes:
        rps: texts a second, until the last one that was begun is there: a text may take as long as a load.
        first_ms: until the first part of an answer, in the middle.
    """

    first_ms: float


def figures(taken: Sequence[tuple[float, float]], seconds: float, errors: int) -> Figures:
    """Return the figures of texts, by the seconds to the first token of each and to the last.

    Raises:
        RuntimeError: there are none.
    """
    if not taken:
        raise RuntimeError(f"no text was written, and {errors} requests failed")
    firsts, lasts = ([1000 * one for one in sorted(several)] for several in zip(*taken, strict=True))
    p99 = lasts[min(len(lasts) - 1, int(0.99 * len(lasts)))]
    middle = statistics.median(lasts)
    many = len(taken)
    return Figures(many, seconds, many / seconds, middle, p99, lasts[-1], errors, statistics.median(firsts))


def ask(url: str, bodies: Sequence[bytes], clients: int, seconds: float, is_whole: Callable[[bytes], bool]) -> Figures:
    """Have so many clients ask for one text after the other, each at least once; none begins after so many seconds.

    Args:
        is_whole: says whether an answer has all the tokens that were asked for; one that has not is an error.

    Raises:
        RuntimeError: no text was written.
    """
    host, _, path = url.removeprefix("http://").partition("/")
    taken: list[tuple[float, float]] = []
    failed: list[str] = []
    begin = time.perf_counter()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=_TIMEOUT_S)
        for turn, body in enumerate(itertools.islice(itertools.cycle(bodies), number, None)):
            sent = time.perf_counter()
            if turn and sent > begin + seconds:
                break
            try:
                connection.request("POST", f"/{path}", body, _JSON)
                response = connection.getresponse()
                parts = [response.read1()]
                first = time.perf_counter() - sent
                parts.append(response.read())
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
                connection.close()
                time.sleep(_AGAIN_S)
                continue
            if response.status == 200 and is_whole(b"".join(parts)):
                taken.append((first, time.perf_counter() - sent))
            else:
                failed.append(f"{response.status} {b''.join(parts)[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed and not taken:
        raise RuntimeError(f"no text was written: {failed[0]}")
    return figures(taken, time.perf_counter() - begin, len(failed))
