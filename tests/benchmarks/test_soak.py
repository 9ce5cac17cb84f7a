from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import psutil
import pytest

from archive_tool import open_archive
from archive_tool.config.schema import validate
from benchmarks import soak
from benchmarks.soak_bench import processes, results, run
from benchmarks.soak_bench.clients import Client, Tally, judge, load
from benchmarks.soak_bench.models import DEDICATED, SHARED, WORKERS, build, model_config
from benchmarks.soak_bench.processes import EXPECTED, Footprint, Member
from serving.frontend.local.version import POISONED

SCRIPT = "/x/ts/model_service_worker.py"
WORKER = ["python", SCRIPT, "--sock-type", "unix"]
FORKED = ["python", SCRIPT, "--prefork", "3", "77"]
TABLE = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 501 @torchmar-0-4026531836-77-aabbccdd00112233
0000000000000000: 00000003 00000000 00000000 0001 03 502 @torchmar-0-4026531836-77-aabbccdd00112233
0000000000000000: 00000002 00000000 00010000 0001 01 503 @torchmar-0-4026531836-7-aabbccdd00112233
0000000000000000: 00000002 00000000 00010000 0001 01 504 /run/other
0000000000000000: 00000003 00000000 00000000 0001 03 505
"""
FILES = {"frontend": 97, "prefork": 19, "shared": 39}
FLAT = Footprint(EXPECTED, {"prefork": 10**8, "thin": 10**7}, 2 * 10**8, 70, FILES)


@pytest.mark.parametrize(
    ("argv", "listens", "model", "role"),
    [
        (WORKER, False, SHARED, "thin"),
        (FORKED, True, "", "prefork"),
        (FORKED, False, DEDICATED, "dedicated"),
        (FORKED, False, SHARED, "shared"),
        (FORKED, False, "", "starting"),
        (["python", "/x/ts/metrics/metric_collector.py", "--gpu", "0"], False, "", "other"),
        ([], False, "", "other"),
    ],
)
def test_the_roles_of_processes(argv: list[str], listens: bool, model: str, role: str) -> None:
    assert processes.role_of(argv, leads=False, listens=listens, model=model) == role


def test_the_frontend_leads_whatever_its_arguments_say() -> None:
    assert processes.role_of(FORKED, leads=True, listens=False, model="") == "frontend"


def test_only_the_listening_sockets_of_that_server_are_found() -> None:
    assert processes.listening_sockets(TABLE, 77) == ["501"]
    assert processes.listening_sockets(TABLE, 8) == []


def test_memory_is_that_of_no_file_where_the_kernel_tells() -> None:
    head = "5580-7fff ---p 00000000 00:00 0    [rollup]\nRss: 9 kB\nPss: 7 kB\n"
    assert processes.own_kb(head + "Pss_Anon: 5 kB\n") == 5
    assert processes.own_kb(head) == 7


def test_what_is_killed_is_of_that_role_and_never_the_frontend() -> None:
    roles = ("frontend", "other", "prefork", "thin", "thin", "shared")
    found = [Member(cast("psutil.Process", number), role) for number, role in enumerate(roles)]
    order = random.Random(1)
    assert {run.choose(found, "thin", order)[0].process for _ in range(50)} == {3, 4}
    assert run.choose(found, "dedicated", order) == []
    assert [member.role for member in run.choose(found, run.EVERYTHING, order)] == list(roles[2:])


@pytest.mark.parametrize(
    ("status", "content", "failure", "pid"),
    [
        (200, b'{"id": "a-1", "pid": 12}', "", 12),
        (200, b'{"id": "b-1", "pid": 12}', "the answer to b-1", 12),
        (200, b'{"id": "a-1"}', "an answer that cannot be read", 0),
        (200, b"[]", "an answer that cannot be read", 0),
        (503, b"{}", "", 0),
        (404, b"{}", "status 404", 0),
    ],
)
def test_an_answer_is_judged(status: int, content: bytes, failure: str, pid: int) -> None:
    found = judge("a-1", status, content)
    assert found[0].startswith(failure)
    assert bool(found[0]) == bool(failure)
    assert found[1] == pid


@contextmanager
def served(statuses: list[int]) -> Iterator[str]:
    """Yield a server that answers with these, then closes connections without a word; 0: close after the answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = not statuses or statuses[0] == 0
            if not statuses:
                return
            self.send_response(statuses.pop(0) or 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_closed_connection_is_a_failure_only_while_an_answer_is_awaited() -> None:
    tally = Tally()
    with served([500, 0, 503]) as address:
        client = Client(address, "m", "c", 1, tally)
        for _ in range(3):
            assert client.ask()[1] == 0
            threading.Event().wait(0.05)  # until the end of the connection has arrived
        assert tally.failures == []
        assert client.ask() == ("c-4", 0)
        client._connection.close()
    assert tally.statuses == {500: 2, 503: 1}
    assert len(tally.failures) == 1
    assert tally.failures[0].startswith("c-4: no answer after 0.0 s: RemoteDisconnected")


def test_a_server_that_takes_no_more_than_before_is_flat() -> None:
    assert all(check.held for check in results.flat(FLAT, FLAT))


@pytest.mark.parametrize(
    ("late", "broken"),
    [
        ({"processes": EXPECTED | {"thin": 11}}, "there are the processes that there should be"),
        ({"memory": {"prefork": 14 * 10**7}}, "memory of the backend is flat"),
        ({"frontend": 3 * 10**8}, "memory of the frontend is flat"),
        (
            {"descriptors": FILES | {"prefork": 22}},
            "open files of the prefork process do not grow",
        ),
        (
            {"descriptors": FILES | {"frontend": 100}},
            "open files of the frontend process do not grow",
        ),
        ({"descriptors": {"frontend": 97, "prefork": 19}}, "open files of the shared process do not grow"),
    ],
)
def test_what_grows_is_named(late: dict[str, object], broken: str) -> None:
    grown = Footprint(**(vars(FLAT) | late))
    assert [check.name for check in results.flat(FLAT, grown) if not check.held] == [broken]


def test_one_request_without_an_answer_is_enough_to_fail() -> None:
    found = results.Results()
    for tally in found.tallies.values():
        for _ in range(9):
            tally.add("x", 200, 0.01, "")
    assert all(check.held for check in results.answered(found.tallies))
    found.tallies[SHARED].add("x-1", 0, 60.0, "x-1: no answer after 60.0 s: TimeoutError: timed out")
    broken = [check for check in results.answered(found.tallies) if not check.held]
    assert [check.figures for check in broken] == ["1 of 10 were not"]
    found.checks += results.answered(found.tallies)
    text = results.report(found, "A test")
    assert text.startswith("# Soak: SOMETHING DID NOT HOLD")
    assert f"| {SHARED} | 9 | 1 | 10.0 | 10.0 | 10.0 |" in text
    assert "- x-1: no answer after 60.0 s" in text


def test_many_bad_answers_are_too_many() -> None:
    tally = Tally()
    for number in range(10):
        tally.add(str(number), 200 if number < 7 else 503, 0.01, "")
    assert [check.held for check in results.answered({DEDICATED: tally})] == [True, False]


def test_where_requests_are_sent_again_only_one_that_two_kills_met_may_fail() -> None:
    log = f"12:00 [ERROR] main x - {POISONED % ('a-2', 'soak-dedicated_1.0')}\n"
    assert soak.met_by_two(log) == {"a-2"}
    tally = Tally()
    for name, status in (("a-1", 200), ("a-2", 500)):
        tally.add(name, status, 0.01, "")
    assert [check.held for check in results.answered({DEDICATED: tally}, soak.met_by_two(log))] == [True, True]
    tally.add("a-3", 503, 0.01, "")
    (broken,) = (check for check in results.answered({DEDICATED: tally}, soak.met_by_two(log)) if not check.held)
    assert "not excused: a-3 (503)" in broken.figures


@pytest.mark.parametrize(("connections", "clients"), [(1, 2), (11, 11), (32, 32)])
def test_clients_are_shared_out_over_the_models(
    connections: int, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(Client, "start", lambda client: begun.append(client.name))
    monkeypatch.setattr(Client, "join", lambda *_: None)
    with load("http://127.0.0.1:1", 1, "x", {DEDICATED: Tally(), SHARED: Tally()}, connections):
        assert len(begun) == clients
    assert {name.rpartition("-x-")[0] for name in begun} == {DEDICATED, SHARED}


def test_a_run_without_checks_has_not_held() -> None:
    assert not results.Results().held


def test_the_report_shows_both_footprints() -> None:
    found = results.Results(early=FLAT, late=FLAT)
    found.kills.update({"thin": 3, "prefork": 1})
    found.checks += results.flat(FLAT, FLAT)
    text = results.report(found, "A test")
    assert text.startswith("# Soak: all held")
    assert "Killed 4 times: 1 prefork, 3 thin." in text
    assert "| open files: shared | 39 | 39 |" in text


def test_the_archives_are_what_the_frontend_and_the_worker_accept(tmp_path: Path) -> None:
    store = build(tmp_path)
    for model in WORKERS:
        assert [problem for problem in validate(model_config(model)) if problem.severity == "error"] == []
        with open_archive(store / f"{model}.mar") as archive:
            assert ("mode: shared" in archive.read("model-config.yaml", 1000).decode()) == (model == SHARED)


@pytest.mark.parametrize(
    "arguments",
    [["--minutes", "0"], ["--kill-every", "nan"], ["--minutes", "x"], ["--frontend", "x"]],
)
def test_a_wrong_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        soak.parse(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err
