"""Clients that are too slow, too long, or wrong: real ones, in front of a tiny application, with either parser."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.frontend import server as frontend_server
from serving.frontend.entrance import App, Receive, Scope, Send
from serving.frontend.guard import HEAD_BYTES, NAMES, Patience, guarded

from .listening_app import Reached, everything, reached, until, wait_for
from .played import PlayedEngine, played_app

QUICK = Patience(idle_s=1.0, head_s=0.5, body_s=0.5, body_rate=1000.0, reading_s=0.5)
ENOUGH_S = 15.0  # a busy machine


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if importlib.util.find_spec("uvloop"):
        import uvloop

        found["uvloop"] = uvloop.new_event_loop
    return found


def usual_loop() -> str:
    return list(loops())[-1]


@pytest.fixture
def app(tmp_path: Path) -> App:
    return played_app("inference", PlayedEngine(tmp_path))


# Of two loops the usual one every time, the other in the slow tests.
@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name != usual_loop())) for name in loops()])
def impatient(request: pytest.FixtureRequest, app: App, parser: str) -> Iterator[Reached]:
    with reached(app, QUICK, parser, loops()[request.param]) as server:
        yield server


@pytest.fixture
def patient(app: App, parser: str) -> Iterator[Reached]:
    with reached(app, parser=parser) as server:
        yield server


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and type of an answer of which the connection is closed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    document = json.loads(body)
    assert int(head.split()[1]) == document["code"]
    return document["code"], document["type"]


def test_a_request_in_time_is_answered(impatient: Reached) -> None:
    with impatient.connect() as sock:
        for _ in range(3):
            sock.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")
            assert b'"body": "hi"' in until(sock, b"0\r\n\r\n")


def test_a_long_answer_is_no_slow_client(impatient: Reached) -> None:
    answer = impatient.ask(b"GET /x?s=1.5 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("before", [b"", b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_head_that_comes_byte_by_byte(impatient: Reached, before: bytes) -> None:
    """Each byte is in time; the head is not. So it is after another request, where uvicorn's own timer has ended."""
    with impatient.connect() as sock:
        if before:
            sock.sendall(before)
            until(sock, b"0\r\n\r\n")
        begun = time.monotonic()
        sock.sendall(b"GET /")
        sock.settimeout(0.2)
        answer = b""
        while time.monotonic() - begun < ENOUGH_S and not answer:
            try:
                sock.sendall(b"x")
                answer = sock.recv(65536)
            except TimeoutError:
                continue
        sock.settimeout(ENOUGH_S)
        assert error_of(answer + everything(sock)) == (408, "RequestTimeoutException")


def test_who_connects_and_says_nothing_is_sent_away_without_a_word(impatient: Reached) -> None:
    with impatient.connect() as sock:
        assert everything(sock) == b""


def test_a_body_that_does_not_come(impatient: Reached, tmp_path: Path) -> None:
    answer = impatient.ask(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\nhi")
    assert error_of(answer) == (408, "RequestTimeoutException")
    # The application, which waited for it, has been told.
    assert wait_for(lambda: "a client of /x has gone" in (tmp_path / "told.log").read_text())


def test_a_body_that_trickles_but_is_in_time_is_taken(impatient: Reached) -> None:
    with impatient.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\nconnection: close\r\n\r\n")
        for _ in range(4):
            time.sleep(0.25)
            sock.sendall(b"x" * 1000)
        assert everything(sock).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_nobody_reads(tmp_path: Path, parser: str) -> None:
    app = played_app("inference", PlayedEngine(tmp_path))
    with reached(app, QUICK, parser) as server, server.connect() as sock:
        sock.sendall(b"GET /x?parts=200&size=1000000 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert wait_for(lambda: server.listener.connections)
        assert wait_for(lambda: not server.listener.connections, ENOUGH_S)


def test_a_head_without_an_end(patient: Reached) -> None:
    with patient.connect() as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nhost: x\r\n")
        sent, answer = 0, b""
        sock.settimeout(0.002)
        while not answer and sent < 100 * HEAD_BYTES:
            try:
                sent += sock.send(b"a: " + b"b" * 1000 + b"\r\n")
                answer = sock.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
        assert sent < 20 * HEAD_BYTES
        assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))  # h11 has a limit of its own


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /x HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: minus\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_request_gets_torchserves_error(patient: Reached, data: bytes) -> None:
    assert error_of(patient.ask(data)) == (400, "BadRequestException")


def test_a_wrong_request_behind_a_good_one_does_not_cut_its_answer(patient: Reached) -> None:
    answer = patient.ask(b"GET /good?s=0.3 HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"path": "/good"' in answer


def test_a_broken_body_behind_a_good_request_does_not_cut_its_answer(app: App, parser: str) -> None:
    broken = b"POST /bad HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    with reached(app, QUICK, parser) as server:
        answer = server.ask(b"GET /good?parts=5&pause=0.1 HTTP/1.1\r\nhost: x\r\n\r\n" + broken)
    good, _, rest = answer.partition(b"0\r\n\r\n")
    assert good.startswith(b"HTTP/1.1 200 ")
    assert b'"path": "/good"' in good
    assert error_of(rest)[0] in (400, 408)


def test_who_leaves_while_requests_wait_leaves_no_line_in_a_log(app: App, caplog: pytest.LogCaptureFixture) -> None:
    with reached(app, parser="httptools") as server:
        with server.connect() as sock:
            sock.sendall(b"GET /first?s=0.5 HTTP/1.1\r\n\r\n" + b"GET /second HTTP/1.1\r\n\r\n")
            assert wait_for(lambda: any(one.pipeline for one in server.listener.connections))
            running = server.listener.connections[0]._running
        assert wait_for(lambda: running.disconnected)
        time.sleep(0.7)
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("parts", [[b"a: " + b"b" * 70_000], [b"a:\r\n" * 30_000 + b"a: b"]])
def test_a_long_head_that_comes_at_once(patient: Reached, parts: list[bytes]) -> None:
    answer = patient.ask(b"GET /x HTTP/1.1\r\nhost: x\r\n" + b"".join(parts) + b"\r\n\r\n")
    assert error_of(answer)[0] in (431, 400)


@pytest.mark.parametrize(
    "what",
    [b"0\r\nx: ", b"1;", b"1;x=", b"0000000000", b"1\r\nx\r\n0\r\nx: "],
)
def test_what_stands_around_a_body_is_bounded_as_a_head_is(patient: Reached, what: bytes) -> None:
    """Trailers and extensions of chunks, which a parser gathers, or passes over for ever."""
    with patient.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + what)
        with contextlib.suppress(OSError):
            for _ in range(200):
                sock.sendall(b"0" * 10_000)
                time.sleep(0.005)
        with contextlib.suppress(ConnectionResetError):
            answer = everything(sock)
            assert answer == b"" or error_of(answer)[0] in (431, 400)
    assert wait_for(lambda: not patient.listener.connections)


def test_trailers_and_small_chunks_are_read(patient: Reached) -> None:
    chunks = [b"1\r\n", b"h", b"\r\n", b"1;a=b\r\ni\r\n", b"0\r\n", b"x: y\r\n", b"\r\n"]
    with patient.connect() as sock:
        for _ in range(2):
            sock.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            for chunk in chunks:
                time.sleep(0.02)
                sock.sendall(chunk)
            assert b'"body": "hi"' in until(sock, b"0\r\n\r\n")
        (connection,) = patient.listener.connections
        assert wait_for(lambda: not connection.is_busy)


def test_no_more_is_read_while_requests_wait_for_their_turn(patient: Reached, parser: str) -> None:
    """Each that is read is an object of two kilobytes, each that is not has the bytes of its shortest form."""
    count = 20_000
    first = b"GET /?s=1 HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with patient.connect() as sock:
        one = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"
        answers: list[bytes] = []
        sender = threading.Thread(target=sock.sendall, args=(first + one * count + last,))
        sender.start()
        assert wait_for(lambda: patient.listener.connections)
        (connection,) = patient.listener.connections
        time.sleep(0.5)
        most = 0
        while data := sock.recv(1 << 20):
            answers.append(data)
            most = max(most, len(connection.pipeline) * len(one) + len(connection._unread))
        sender.join()
    assert most < 8 * HEAD_BYTES  # uvloop reads four at once
    assert b"".join(answers).count(b"HTTP/1.1 200 ") == count + 2
    assert b'"path": "/last"' in b"".join(answers)[-500:]


def test_who_is_always_a_request_ahead_has_no_long_head(patient: Reached) -> None:
    one = b"GET /?s=0 HTTP/1.1\r\nhost: x\r\nx: %s\r\n\r\n" % (b"y" * 8000)
    count = 2 * HEAD_BYTES // len(one)
    with patient.connect() as sock:
        sock.sendall(one)
        answered = 0
        for sent in range(1, count + 1):
            sock.sendall(one)
            while answered < sent:
                answered += until(sock, b"0\r\n\r\n").count(b"0\r\n\r\n")


def test_requests_that_come_at_once_are_answered_in_order(patient: Reached) -> None:
    requests = [f"GET /{n}?s={0.2 if n == 0 else 0} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for n in range(4)]
    requests.append(b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = patient.ask(b"".join(requests))
    places = [answer.index(f'"path": "/{name}"'.encode()) for name in (0, 1, 2, 3, "last")]
    assert places == sorted(places)


UPGRADE = (
    b"POST /x HTTP/1.1\r\nhost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\ncontent-length: 2\r\n\r\n"
)


def test_who_asks_for_another_protocol_is_answered_in_this_one(patient: Reached) -> None:
    """Java's own client asks so with its first request, whatever the body."""
    with patient.connect() as sock:
        for _ in range(2):
            sock.sendall(UPGRADE + b"hi")
            assert b'"body": "hi"' in until(sock, b"0\r\n\r\n")


def test_a_body_is_not_lost_in_silence_where_that_was_not_seen(app: App) -> None:
    with reached(app, parser="httptools") as server, server.connect() as sock:
        place = UPGRADE.index(b"grade: h2c")
        sock.sendall(UPGRADE[:place])
        time.sleep(0.2)
        sock.sendall(UPGRADE[place:] + b"hi")
        assert error_of(everything(sock)) == (400, "BadRequestException")


def test_a_slow_client_does_not_delay_the_others(app: App) -> None:
    with reached(app) as server:
        slow = [server.connect() for _ in range(300)]
        for sock in slow:
            sock.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\nh")
        assert server.ask(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        for sock in slow:
            sock.close()


def test_one_connection_too_many_is_told_so_and_the_others_are_served(
    app: App, parser: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frontend_server, "most_connections", lambda: 2)
    request = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
    with reached(app, parser=parser) as server:
        with server.connect() as first, server.connect() as second:
            for one in (first, second):
                one.sendall(request)
                assert b'"body": "hi"' in until(one, b"0\r\n\r\n")
            for _ in range(3):
                with server.connect() as another:
                    assert error_of(everything(another)) == (503, "ServiceUnavailableException")
            first.sendall(request)
            assert b'"body": "hi"' in until(first, b"0\r\n\r\n")
        assert wait_for(lambda: not server.listener.connections)
        with server.connect() as later:
            later.sendall(request)
            assert b'"body": "hi"' in until(later, b"0\r\n\r\n")
    assert caplog.text.count("New connections are refused: there are 2") == 1


def test_a_part_of_the_descriptors_is_left_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((1024, 512), (16384, 8192), (1 << 20, (1 << 20) - 8192)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert frontend_server.most_connections() == most


def test_without_httptools_there_is_h11(monkeypatch: pytest.MonkeyPatch) -> None:
    real = guarded.__globals__["import_module"]

    def without(name: str) -> object:
        if "httptools" in name:
            raise ImportError(name)
        return real(name)

    monkeypatch.setitem(guarded.__globals__, "import_module", without)
    assert guarded().__name__ == "GuardedH11Protocol"
    with pytest.raises(ImportError, match="httptools"):
        guarded("httptools")


def test_names_of_headers_are_kept_as_they_were_sent() -> None:
    """And what stands behind a body, in which anybody may have put it, is none of them."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        scopes.append(scope)
        await _nothing(scope, receive, send)

    head = b"POST /x HTTP/1.1\r\nHost: x\r\nX-TRAce: 1\r\ntransfer-encoding: chunked\r\nTrailer: x-key\r\n\r\n"
    with reached(app, parser="httptools") as server, server.connect() as sock:
        for _ in range(2):
            sock.sendall(head + b"1\r\na\r\n0\r\nx-key: forged\r\n\r\n")
            until(sock, b"\r\n\r\n")
    for scope in scopes:
        assert scope[NAMES] == [b"Host", b"X-TRAce", b"transfer-encoding", b"Trailer"]
        assert [name for name, _ in scope["headers"]] == [name.lower() for name in scope[NAMES]]
    assert len(scopes) == 2


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_a_body_that_nobody_wants_any_more_comes_to_an_end(parser: str) -> None:
    """It was refused, and goes on coming: what is read of it goes nowhere, and not for ever."""
    with reached(_nothing, QUICK, parser) as server, server.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
        begun, refused = time.monotonic(), False
        while time.monotonic() - begun < ENOUGH_S and not refused:
            try:
                sock.sendall(b"x" * 100)
            except OSError:
                refused = True
            time.sleep(0.05)
        assert refused
