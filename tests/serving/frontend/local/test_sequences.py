"""Sequences: whose they are, how long, and nobody left waiting for one that has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.frontend import settings
from serving.frontend.engine import Registration
from serving.frontend.errors import ModelError
from serving.frontend.local.job import Job
from serving.frontend.local.models.model import Model, Unpacked, model_of
from serving.frontend.local.sequences import Sequences
from serving.frontend.settings import Place, Settings
from serving.protocol import Request

_NAMED = "ts_request_sequence_id"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def _settings(folder: Path) -> Settings:
    addresses = {f"{api}_address": "http://127.0.0.1:0" for api in ("inference", "management", "metrics")}
    return settings.of(addresses, Place(folder, folder, folder, folder, folder), {})


def _model(folder: Path, **values: Any) -> Model:
    text = "".join(f"{key}: {value}\n" for key, value in {"sequenceBatching": "true", **values}.items())
    unpacked = Unpacked(folder, None, "m.mar", None, text.encode())
    return model_of(unpacked, Registration("m.mar", "m"), _settings(folder))


def _sequences(folder: Path, **values: Any) -> Sequences:
    return Sequences(_model(folder, **{"sequenceMaxIdleMSec": 1000, "maxNumSequence": 4, **values}), _settings(folder))


def _job(loop: asyncio.AbstractEventLoop, name: str = "", at: float = 0.0, **headers: str) -> Job:
    made = Job(Request("id", ({_NAMED: name} if name else {}) | headers), loop)
    made.arrived = at
    return made


def test_a_sequence_stays_with_its_worker_one_request_at_a_time(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    line = _sequences(tmp_path, maxSequenceJobQueueSize=2)
    first, second, other = _job(loop, "a"), _job(loop, "a"), _job(loop, "b")
    assert all(line.put(one) for one in (first, second, other))
    assert not line.put(_job(loop, "a"))
    assert line.take(8, 1) == [first, other]
    assert line.take(8, 2) == []
    assert line.take(8, 1) == [second]
    assert len(line) == 0


def test_sequences_are_spread_over_the_workers_and_none_waits_for_another_to_end(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    line = _sequences(tmp_path, batchSize=1)
    for name in "abcd":
        assert line.put(_job(loop, name))
    assert not line.put(_job(loop, "e"))
    line.spread(2)
    assert len(line.take(8, 1)) == 2
    assert len(line.take(8, 2)) == 2
    # A single worker has them all.
    line = _sequences(tmp_path, batchSize=1)
    line.spread(1)
    for name in "abcd":
        assert line.put(_job(loop, name))
        assert len(line.take(1, 1)) == 1


def test_the_name_of_the_header_may_be_written_in_any_way(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    line = _sequences(tmp_path)
    line.put(_job(loop, "a"))
    assert len(line.take(1, 1)) == 1
    line.put(_job(loop, TS_Request_Sequence_ID="a"))
    assert line.take(1, 2) == []
    assert len(line.take(1, 1)) == 1


def test_one_that_an_answer_ends_leaves_nobody_waiting(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    line = _sequences(tmp_path, maxSequenceJobQueueSize=2)
    waiting = _job(loop, "b")
    for one in (_job(loop, "a"), _job(loop, "b")):
        line.put(one)
    line.take(8, 1)
    line.put(waiting)
    assert line.answered({"TS_request_sequence_end": "a; b ;nobody"}) == [waiting]
    assert len(line) == 0
    assert line.put(_job(loop, "b"))
    assert len(line.take(8, 2)) == 1  # it begins anew, with any worker


def test_time_counts_from_the_last_answer_and_in_all(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    line = _sequences(tmp_path, sequenceTimeoutMSec=10_000)
    running = _job(loop, "a")
    line.put(running)
    assert line.take(1, 1) == [running]
    assert line.expire(5.0) == []  # it runs
    running.answer.set_result(None)  # type: ignore[arg-type]
    assert line.expire(5.5) == []
    line.put(_job(loop, "a", at=5.9))
    assert line.take(1, 2) == []  # it is there still, and the first worker's
    (again,) = line.take(1, 1)
    assert line.expire(9.0) == []
    late = _job(loop, "a", at=9.5)
    line.put(late)
    assert line.expire(10.0) == [late]  # it has lasted long enough, whoever waits
    again.answer.cancel()
    line.put(_job(loop, "a", at=11.0))
    line.take(1, 1)[0].answer.cancel()
    line.expire(11.9)
    line.expire(12.1)
    line.put(_job(loop, "a", at=12.2))
    assert len(line.take(1, 2)) == 1


def test_a_description_is_alone_and_begins_no_sequence(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    line = _sequences(tmp_path, maxNumSequence=1)
    one, described = _job(loop, "a"), _job(loop, describe="True")
    assert line.put(one)
    assert line.put(described)
    assert line.take(8, 1) == [described]
    assert line.take(8, 1) == [one]
    gone = _job(loop, describe="True")
    line.put(gone)
    line.drop(gone)
    kept = _job(loop, describe="True")
    line.put(kept)
    assert line.clear() == [kept]
    assert len(line) == 0


def test_sequences_without_an_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sequenceBatching in its configuration needs sequenceMaxIdleMSec above 0"):
        _model(tmp_path)
    assert not _model(tmp_path, sequenceBatching="false", sequenceMaxIdleMSec=1000).stateful
