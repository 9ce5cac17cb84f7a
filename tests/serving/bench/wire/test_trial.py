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


def test_nobody_listens() -> None:
    target = Target(Address("unix:/no/such.sock"), "m")
    with pytest.raises(NotRunningError, match="nobody answers"):
        asyncio.run(try_each(target, target.requests([(b"", "text/plain")]), 10))
