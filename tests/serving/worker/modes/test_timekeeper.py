"""An answer that takes too long is given up, and a worker whose event loop hangs is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.worker.asynchronous import SLOW, answer, answers, error, load
from tests.serving.worker.frontend import Server, rest


@pytest.fixture
def server(server: Server) -> Iterator[Server]:
    with server.asynchronous():
        yield server


LATE = "within 1 s (responseTimeout in model-config.yaml)."


def test_time_is_kept_for_each_request(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, SLOW, responseTimeout=1)
    for wish in ("hang", "part", "parts"):
        worker.send(rest(wish, wish.encode()))
    found = answers(worker, 3)
    assert error(found["hang"][0]) == (500, f"The handler gave no answer {LATE}")
    assert bytes(found["part"][0].body) == b"one"
    assert error(found["part"][1]) == (500, f"The handler gave no further part of its answer {LATE}")
    assert [bytes(item.body) for item in found["parts"]] == [b".", b".", b".", b".", b"end"]
    assert sorted(answer(worker, b"cancelled").split()) == [b"hang", b"part"]
    text = worker.out.wait("Request part:")
    assert f"Request hang: The handler gave no answer {LATE} It is here:" in text
    assert "await self.hang(wish)" in text
    assert "await asyncio.sleep(600)" in text
    assert "asynchronous.py" not in text


@pytest.mark.parametrize("others", [0, 2])
def test_a_worker_whose_loop_hangs_answers_and_is_replaced(server: Server, tmp_path: Path, others: int) -> None:
    worker = load(server, tmp_path, SLOW, responseTimeout=1)
    worker.send(rest("block", b"block"))
    for name in ("next", "last")[:others]:
        worker.send(rest(name, b"hang"))
    found = answers(worker, 1 + others)
    assert error(found.pop("block")[0]) == (500, f"The handler gave no answer {LATE}")
    for item, _ in found.values():
        assert error(item) == (500, "The worker is replaced: its handler hangs.")
    assert server.status(worker) == 1
    assert "time.sleep(600)" in worker.out.wait("This worker of model is replaced")
