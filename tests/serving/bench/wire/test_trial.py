"""Each request once, before the load."""

from __future__ import annotations

import asyncio

import pytest

from serving.bench.targets import Target
from serving.bench.wire.trial import try_each
from serving.client import Address
from serving.errors import NotRunningError, ReplyError
from tests.serving.bench.answering import Server


def test_an_input_is_tried_as_it_is_sent(server: Server) -> None:
    inputs = [(b"one", "text/x"), (b"two", "text/y")]
    good = Target(Address(server.address), "good", token="secret", headers={"X-One": "1"})
    asyncio.run(try_each(good, good.requests(inputs), 10))
    assert server.seen == {b"one": 1, b"two": 1}
    assert {"authorization": "Bearer secret", "x-one": "1", "content-type": "text/y"}.items() <= server.heard.items()
    bad = Target(Address(server.address), "bad")
    with pytest.raises(ReplyError, match="no worker"):
        asyncio.run(try_each(bad, bad.requests(inputs), 10))


def test_an_answer_that_is_late(server: Server) -> None:
    """What can be done goes by who asks: the console has no option --timeout."""
    target = Target(Address(server.address), "silent")
    requests = target.requests([(b"x", "text/plain")])
    with pytest.raises(ReplyError, match=r"no answer within 0\.1 s") as failed:
        asyncio.run(try_each(target, requests, 0.1))
    assert failed.value.hint == "see the server's log"
    with pytest.raises(ReplyError) as failed:
        asyncio.run(try_each(target, requests, 0.1, late="wait"))
    assert failed.value.hint == "wait"


def test_nobody_listens() -> None:
    target = Target(Address("unix:/no/such.sock"), "m")
    with pytest.raises(NotRunningError, match="nobody answers"):
        asyncio.run(try_each(target, target.requests([(b"", "text/plain")]), 10))
