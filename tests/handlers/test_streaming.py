from types import SimpleNamespace

import pytest

from handlers.streaming import can_stream, send_parts


@pytest.mark.parametrize(
    ("socket", "requests", "rows", "expected"), [(True, 2, 2, True), (False, 2, 2, False), (True, 1, 2, False)]
)
def test_where_parts_can_be_sent(make_context, socket, requests, rows, expected):
    """To a worker, and where each row is a request of its own."""
    context = make_context(requests=requests)
    context.cl_socket = SimpleNamespace() if socket else None
    assert can_stream(context, rows) is expected
    assert not can_stream(None, 0)


def test_parts_go_to_their_requests(make_context, read_reply):
    sent = []
    context = make_context(requests=3)
    context.cl_socket = SimpleNamespace(sendall=sent.append)
    context.set_response_status(code=201, phrase="Begun", idx=2)
    send_parts(context, {2: b"bytes", 0: {"a": 1}})
    reply = read_reply(sent[0])
    assert (reply.code, len(sent)) == (200, 1)
    assert [(item.request_id, item.status, item.headers) for item in reply.items] == [
        ("request-2", 201, {"ts_stream_next": "true"}),
        ("request-0", 200, {"ts_stream_next": "true"}),
    ]
    assert reply.items[0].body == b"bytes"
    assert reply.items[1].json() == {"a": 1}
    assert context.get_response_headers(1) == {}
