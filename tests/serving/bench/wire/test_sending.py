from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from serving.bench.loads import Load, Place
from serving.bench.tally import Figures, Second
from serving.bench.targets import Target
from serving.bench.wire.sending import CLOSED, KEY, NOT_SENT, REFUSED, TIMEOUT, UNREADABLE, Sending, failure_of
from serving.client import Address
from serving.control.configuration.ports import choose_free
from tests.serving.bench.answering import Server

Send = Callable[..., Figures]


def _uvloop(main: Any) -> Any:
    import uvloop

    return uvloop.run(main)


@pytest.fixture(params=[_uvloop, pytest.param(asyncio.run, marks=pytest.mark.slow)], ids=["uvloop", "asyncio"])
def send(request: pytest.FixtureRequest, server: Server) -> Send:
    """Return what sends a load to a model of the server."""

    def sent(model: str, connections: int = 1, seconds: float = 0.2, *bodies: bytes, **more: Any) -> Figures:
        async def main() -> Figures:
            settings = {"place": server.place, **more}
            load = Load(requests=server.requests(model, *bodies), connections=connections, seconds=seconds, **settings)
            return await Sending(load).run()

        found = request.param(main())
        assert isinstance(found, Figures)
        return found

    return sent


def test_every_connection_is_kept_busy_with_each_body_in_turn(send: Send, server: Server) -> None:
    # The second body is more than a socket takes at once.
    found = send("good", 3, 0.5, b"x" * 10, b"y" * 3_000_000)
    assert set(server.seen) == {b"x" * 10, b"y" * 20}
    assert abs(server.seen[b"x" * 10] - server.seen[b"y" * 20]) <= 1
    assert server.connections == 3
    assert found.requests == found.good == server.seen.total() >= 6
    assert (found.errors, found.first_part_ms) == ({}, None)
    assert found.good - 3 <= found.good_in_time <= found.good
    assert found.rate == pytest.approx(found.good_in_time / 0.5)
    took = found.latency_ms
    assert 0 < took.p50 <= took.p90 <= took.p99 <= took.max
    assert {name: values.mean for name, values in found.server.items()} == {"queue": 1.5, "worker": 4.0, "batch": 2.0}


def test_errors_are_told_by_kind_with_the_first_ones_words(send: Send) -> None:
    found = send("bad", 2)
    assert found.good == 0
    assert found.errors == {"HTTP 503": found.requests}
    assert found.messages == {"HTTP 503": "no worker <b>here</b>"}


def test_a_connection_that_the_server_closes_is_an_error_and_opened_anew(send: Send, server: Server) -> None:
    found = send("close")
    assert found.errors == {CLOSED: found.requests}
    assert server.connections >= found.requests > 1


def test_a_server_may_close_after_an_answer(send: Send, server: Server) -> None:
    found = send("closing", 2)
    assert found.errors == {}
    assert found.good > 2
    assert server.connections >= found.good


def test_what_is_no_answer_is_an_error(send: Send) -> None:
    found = send("nonsense")
    assert found.errors == {UNREADABLE: found.requests}
    assert "220 this" in found.messages[UNREADABLE]


def test_an_answer_that_takes_too_long_is_an_error(send: Send, server: Server) -> None:
    found = send("silent", 2, 0.3, timeout_s=0.2)
    assert found.errors == {TIMEOUT: found.requests}
    assert found.requests >= 2


def test_of_answers_in_parts_the_first_one_is_timed(send: Send) -> None:
    found = send("parts", 1, 0.3)
    assert found.first_part_ms is not None
    assert found.first_part_ms.p50 < found.latency_ms.p50 - 15
    assert found.parts == 2 * found.good


@pytest.mark.parametrize("rate", [None, 20.0])
def test_where_nobody_listens_that_is_the_error(send: Send, rate: float | None) -> None:
    (port,) = choose_free("127.0.0.1", 1)
    found = send("good", 2, 0.3, rate=rate, place=Place("127.0.0.1", port))
    assert found.errors == {REFUSED: found.requests}
    assert found.requests > 1


def test_times_count_from_the_intended_start(send: Send) -> None:
    """One connection, four answers a second, twelve requests a second: what waits in vain is seen."""
    found = send("slow", 1, 0.5, rate=12.0, steady=True)
    assert found.good == 6
    assert found.good_in_time <= 2
    # The last one was to begin at 5/12 s, and has its answer at 1.5 s or later.
    assert found.latency_ms.max > 1050
    assert found.latency_ms.p50 > 500


def test_a_rate_opens_connections_as_they_are_needed(send: Send, server: Server) -> None:
    found = send("slow", 50, 0.5, rate=20.0, steady=True)
    assert found.good == 10
    assert 4 <= server.connections <= 10
    assert found.latency_ms.p50 >= 250


def test_requests_that_never_find_a_connection_are_errors(send: Send, server: Server) -> None:
    found = send("slow", 1, 0.5, rate=40.0, steady=True, timeout_s=0.8)
    assert found.requests == 20
    assert found.errors[NOT_SENT] > 5
    assert found.good > 0


def test_a_second_tells_what_was_in_it(server: Server) -> None:
    told: list[Second] = []

    async def main() -> Figures:
        load = Load(server.place, server.requests("slow"), 2, 2.2, slo_s=0.1)
        return await Sending(load, told.append).run()

    found = asyncio.run(main())
    assert [one.at for one in told] == sorted(one.at for one in told)
    assert len(told) >= 3
    assert sum(one.good for one in told) == sum(one.missed for one in told) == found.good
    assert all(one.p50_ms >= 245 for one in told if one.good)  # 250 to a hundredth
    assert told[0].busy == 2


def test_a_load_that_is_stopped_has_figures(server: Server) -> None:
    async def main() -> Figures:
        load = Sending(Load(server.place, server.requests("good"), 2, 600.0))
        asyncio.get_running_loop().call_later(0.5, load.stop)
        return await load.run()

    found = asyncio.run(main())
    assert 0.4 < found.seconds < 60
    assert found.good > 0
    assert found.rate == pytest.approx(found.good_in_time / found.seconds)


@pytest.mark.parametrize("rate", [None, 50.0])
def test_a_key_that_is_not_taken_any_more_ends_a_load(server: Server, rate: float | None) -> None:
    found = asyncio.run(Sending(Load(server.place, server.requests("key"), 2, 600.0, rate)).run())
    assert found.good == 10
    assert 1 <= found.errors[KEY] == found.failed <= 2
    assert found.messages[KEY] == "Token Authorization failed."
    assert found.seconds < 60


@pytest.mark.parametrize("late", [0.0, 0.4])
def test_a_short_closed_loop_begins_when_it_has_connected(server: Server, late: float) -> None:
    async def main() -> Figures:
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def slowly(*given: Any, **more: Any) -> Any:
            await asyncio.sleep(late)
            return await connect(*given, **more)

        cast("Any", loop).create_connection = slowly
        return await Sending(Load(server.place, server.requests("good"), 2, 0.2)).run()

    found = asyncio.run(main())
    assert found.good > 2
    assert found.seconds == pytest.approx(0.2)
    assert found.latency_ms.max >= 1000 * late, "who has to wait for a connection waits"


def test_a_stop_does_not_wait_for_a_slow_answer(server: Server) -> None:
    async def main() -> Figures:
        load = Sending(Load(server.place, server.requests("silent"), 2, 600.0))
        asyncio.get_running_loop().call_later(0.2, load.stop)
        return await asyncio.wait_for(load.run(), 20)

    assert asyncio.run(main()).requests == 0


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    file = tmp_path / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", file, "-out", tmp_path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    file.write_bytes(file.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    return file


@pytest.fixture
def encrypted(server: Server, certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Server() as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_tls(encrypted: Server, certificate: Path) -> None:
    async def ask(**place: Any) -> Figures:
        where = replace(encrypted.place, host="localhost", tls=True, **place)
        return await Sending(Load(where, encrypted.requests("good"), 2, 0.3)).run()

    trusting = asyncio.run(ask())
    assert trusting.good > 0
    assert not trusting.errors
    assert asyncio.run(ask(authorities=str(certificate.parent / "cert.pem"))).good > 0
    import certifi

    strict = asyncio.run(ask(authorities=certifi.where()))
    assert (strict.good, set(strict.errors)) == (0, {REFUSED})
    assert "CERTIFICATE_VERIFY_FAILED" in strict.messages[REFUSED]


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    heard: list[bytes] = []
    answering: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(cast("asyncio.Task[None]", asyncio.current_task()))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                heard.append(await reader.readuntil(b"\r\n\r\nbody"))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7")

    async def main() -> Figures:
        target = Target(Address(f"unix:{path}"), "m")
        load = Load(target.place, target.requests([(b"body", "text/plain")]), 2, 0.2)
        async with await asyncio.start_unix_server(answer, path):
            sent = await Sending(load).run()
            await asyncio.wait(answering)
            await asyncio.sleep(0.05)  # what is closed is gone with the loop's next turns
            return sent

    found = asyncio.run(main())
    assert (found.errors, found.good) == ({}, len(heard))
    assert found.good > 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps({"message": "hm"}).encode(), "hm"),
        (b"text \xff", "text \ufffd"),
        (b"[1]", "[1]"),
        (b'{"message": 1}', '{"message": 1}'),
        (b"", ""),
    ],
)
def test_messages(body: bytes, message: str) -> None:
    assert failure_of(503, body) == ("HTTP 503", message)
