"""The work between rows and results; who answers is played, and tells what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from archive_tool.errors import InputError
from serving.batch import job
from serving.batch.inputs import Reading
from serving.batch.job import Done, identity_of, run
from serving.batch.ledger import Ledger
from serving.batch.workers import Answerer
from serving.errors import ServingError
from serving.frontend.engine import Answer
from serving.frontend.errors import InternalError, UnavailableError
from serving.protocol import Request


class Played:
    """Answers, and keeps what it was asked."""

    def __init__(self, answer: Callable[[Any], Awaitable[Answer]] | None = None, width: int = 8) -> None:
        self.asked: list[Any] = []
        self.most = self.now = 0
        self.alive = True
        self.width = width
        self._answer = answer or self._echo

    @staticmethod
    async def _echo(value: Any) -> Answer:
        await asyncio.sleep(random.random() * 0.003)
        return answered(json.dumps(value).encode())

    async def ask(self, request: Request) -> Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            value = json.loads(bytes(request.parameters[0].value))
            self.asked.append(value)
            return await self._answer(value)
        finally:
            self.now -= 1

    @contextlib.asynccontextmanager
    async def answerers(self) -> AsyncIterator[Answerer]:
        yield Answerer(self.ask, 2, 2, self.width, lambda: self.alive)


def answered(body: bytes, status: int = 200, content_type: str = "", rest: Any = None) -> Answer:
    return Answer(status, "", content_type, {}, body, rest)


class Place:
    """A folder with an archive, rows and results."""

    def __init__(self, folder: Path, count: int = 50) -> None:
        self.target = folder / "out.jsonl"
        self.input = folder / "in.jsonl"
        self.input.write_text("".join(f"{number}\n" for number in range(1, count + 1)))
        self.archive = folder / "m.mar"
        self.archive.touch()
        self.reading = Reading((self.input,))

    def run(self, played: Played, **options: Any) -> Done:
        with Ledger(self.target, identity_of(self.archive, self.reading), **options) as ledger:
            return run(self.reading, ledger, played.answerers)

    def answers(self) -> list[Any]:
        return [json.loads(line) for line in self.target.read_text().splitlines()]

    def failures(self) -> list[Any]:
        path = self.target.with_name("out.jsonl.failures.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_rows_go_side_by_side_and_come_in_their_order(place: Place) -> None:
    played = Played()
    done = place.run(played)
    assert (done.rows, done.failed, done.asked, done.signal) == (50, 0, 50, 0)
    assert [(row["row"], row["answer"]) for row in place.answers()] == [(n, n) for n in range(1, 51)]
    assert 1 < played.most <= 8


def test_answers_as_they_are_written(place: Place) -> None:
    place.input.write_text("1\n2\n3\n4\n5\n6\n7\n")

    async def parts() -> AsyncIterator[bytes]:
        yield b"three "
        yield b"parts"

    async def answer(value: int) -> Answer:
        return {
            1: answered(b'{"a": NaN}'),
            2: answered(b"text"),
            3: answered(b"\xff\x00"),
            4: answered(b"of ", rest=parts()),
            5: answered(b"", 204),
            6: answered(b'{"code": 418, "message": "a teapot"}', 418),
            7: answered(b"[" * 900 + b"]" * 900),
        }[value]

    place.run(Played(answer))
    rows = place.answers()
    assert [row.get("answer", row.get("answer_base64")) for row in rows[:5]] == [
        {"a": None},
        "text",
        "/wA=",
        "of three parts",
        "",
    ]
    assert rows[4]["status"] == 204
    assert len(rows) == 6
    assert place.failures() == [{"source": str(place.input), "row": 6, "status": 418, "error": "a teapot", "input": 6}]


def test_failures_say_what_was_sent_and_what_came(place: Place) -> None:
    place.input.write_text('{"x": 1}\nbad\n"' + "y" * 100_000 + '"\n')

    async def answer(value: Any) -> Answer:
        raise InternalError("it broke", status=507)

    done = place.run(Played(answer))
    assert (done.rows, done.failed) == (3, 3)
    first, second, third = place.failures()
    assert (first["status"], first["error"], first["input"]) == (507, "it broke", {"x": 1})
    assert (second["status"], second["input"]) == (None, "bad")
    assert second["error"].startswith("the line is no JSON")
    assert third["input"] == '"' + "y" * 1999
    assert place.answers() == []


def test_what_is_refused_is_asked_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_PAUSE_S", 0.001)
    refused: set[int] = set()

    async def answer(value: int) -> Answer:
        if value % 5 == 0 and value not in refused:
            refused.add(value)
            raise UnavailableError("full")
        return answered(b"1")

    assert place.run(Played(answer)).failed == 0
    assert len(place.answers()) == 50


def test_when_nobody_is_left_the_job_ends_and_can_go_on(place: Place) -> None:
    async def answer(value: int) -> Answer:
        if value > 20:
            played.alive = False
            raise UnavailableError("no worker")
        return answered(b"1")

    played = Played(answer)
    with pytest.raises(ServingError, match="no worker is left that could answer: no worker"):
        place.run(played)
    again = Played()
    done = place.run(again)
    assert (done.rows, done.asked) == (50, 30)
    assert min(again.asked) == 21
    assert [row["row"] for row in place.answers()] == list(range(1, 51))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(place: Place, number: int) -> None:
    async def answer(value: int) -> Answer:
        if value == 20:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        return answered(b"1")

    done = place.run(Played(answer))
    assert done.signal == number
    assert 10 < done.rows <= 19
    assert not place.target.exists()
    again = Played()
    assert place.run(again).rows == 50
    assert min(again.asked) == done.rows + 1
    assert [row["row"] for row in place.answers()] == list(range(1, 51))


def test_a_signal_after_the_last_row_changes_nothing(place: Place) -> None:
    played = Played()

    @contextlib.asynccontextmanager
    async def answerers() -> AsyncIterator[Answerer]:
        async with played.answerers() as answerer:
            yield answerer
        signal.raise_signal(signal.SIGTERM)

    with Ledger(place.target, identity_of(place.archive, place.reading)) as ledger:
        done = run(place.reading, ledger, answerers)
    assert (done.signal, done.rows) == (0, 50)


def cut(place: Place, rows: int = 10) -> None:
    """Leave a job that was cut after some rows."""

    async def answer(value: int) -> Answer:
        if value > rows:
            raise RuntimeError("cut")
        return answered(b"1")

    with pytest.raises(RuntimeError, match="cut"):
        place.run(Played(answer))


def test_other_inputs_are_noticed(place: Place) -> None:
    cut(place)
    text = place.input.read_text()
    os.utime(place.input, (1, 1))
    with pytest.raises(InputError, match="not what they were when 10 rows") as caught:
        place.run(Played())
    assert "--restart" in str(caught.value.hint)
    place.input.write_text(text[:6])
    with pytest.raises(InputError, match="not what they were"):
        place.run(Played())
    assert place.run(Played(), restart=True).rows == 3


def test_another_archive_or_column_is_another_job(place: Place) -> None:
    cut(place)
    os.utime(place.archive, (1, 1))
    with pytest.raises(InputError, match="archive is not the same"):
        place.run(Played())


def test_large_rows_are_not_all_held_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.input.write_text(('"' + "x" * 98 + '"\n') * 50)
    monkeypatch.setattr(job, "_MOST_BYTES", 250)
    played = Played(width=40)
    assert place.run(played).failed == 0
    assert played.most <= 4


def test_scores_count_what_has_a_label(place: Place) -> None:
    labels = place.input.with_name("labels.txt")
    labels.write_text("1\n2\n4\n\n")
    place.reading = Reading((place.input,), labels=labels)
    with Ledger(place.target, identity_of(place.archive, place.reading)) as ledger:
        run(place.reading, ledger, Played().answerers)
    assert ledger.scores.result == {
        "compared": 3,
        "notComparable": 0,
        "accuracy": pytest.approx(2 / 3),
        "correct": 2,
    }
