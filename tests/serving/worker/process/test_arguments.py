"""The command line that the frontend gives."""

from __future__ import annotations

import re
from typing import Any

import pytest

from serving.worker.process.arguments import Arguments, parse

UNIX = ["--sock-type", "unix", "--sock-name", "/tmp/.ts.sock.9000", "--metrics-config", "/home/metrics.yaml"]
TCP = ["--sock-type", "tcp", "--port", "9001", "--metrics-config", "/home/metrics.yaml"]


def test_a_unix_socket() -> None:
    assert parse(UNIX, {}) == Arguments("/tmp/.ts.sock.9000", "", 0, "/home/metrics.yaml", False, 0)


def test_tcp_listens_on_this_machine_only() -> None:
    assert parse(TCP, {}) == Arguments("", "127.0.0.1", 9001, "/home/metrics.yaml", False, 0)
    assert parse([*TCP, "--host", "0.0.0.0"], {}).host == "0.0.0.0"


def test_asynchronous() -> None:
    assert parse([*UNIX, "--async"], {}).asynchronous
    assert parse(["--async", *TCP], {}).asynchronous


def test_values_after_an_equals_sign() -> None:
    line = ["--sock-type=unix", "--sock-name=/tmp/a=b/.ts.sock.9000", "--metrics-config="]
    assert parse(line, {}) == Arguments("/tmp/a=b/.ts.sock.9000", "", 0, "", False, 0)


def test_the_last_one_of_two_counts() -> None:
    assert parse([*TCP, "--port", "9002"], {}).port == 9002


@pytest.mark.parametrize(("environ", "rank"), [({}, 0), ({"LOCAL_RANK": ""}, 0), ({"LOCAL_RANK": "3"}, 3)])
def test_a_rank_listens_beside_the_first(environ: dict[str, str], rank: int) -> None:
    assert parse(UNIX, environ).unix == f"/tmp/.ts.sock.{9000 + rank}"
    assert parse(TCP, environ).port == 9001 + rank
    assert parse(TCP, environ).rank == rank


@pytest.mark.parametrize(
    ("line", "environ", "text"),
    [
        ([], {}, "--sock-type ''"),
        (["--sock-type", "udp"], {}, "unix or tcp"),
        (["--sock-type"], {}, "lacks its value"),
        (["--sock-type", "unix"], {}, "--sock-name ''"),
        (["--sock-type", "unix", "--sock-name", "/tmp/socket"], {}, "a dot and a number"),
        (["--sock-type", "unix", "--sock-name", "/tmp/.ts.sock.x"], {}, "a dot and a number"),
        (["--sock-type", "tcp"], {}, "--port ''"),
        (["--sock-type", "tcp", "--port", "-1"], {}, "--port '-1'"),
        ([*TCP, "model.mar"], {}, "people do not"),
        ([*TCP, "--unknown=1"], {}, "--unknown=1"),
        (TCP, {"LOCAL_RANK": "first"}, "LOCAL_RANK 'first'"),
    ],
)
def test_what_the_frontend_does_not_give(line: list[str], environ: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse(line, environ)


def test_it_goes_from_process_to_process_as_a_tuple() -> None:
    parsed = parse([*UNIX, "--async"], {})
    sent: list[Any] = list(parsed)
    assert Arguments(*sent) == parsed
