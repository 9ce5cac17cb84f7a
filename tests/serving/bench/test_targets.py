from __future__ import annotations

import pytest

from archive_tool.errors import InputError
from serving.bench.loads import Place
from serving.bench.targets import Target
from serving.client import Address


def test_a_request_names_host_path_type_and_length() -> None:
    (request,) = Target(Address("http://h:8080/"), "m").requests([(b"\x00abc", "image/png")])
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"POST /predictions/m HTTP/1.1"
    assert {b"host: h:8080", b"content-type: image/png", b"content-length: 4"} <= set(lines)
    assert body == b"\x00abc"


def test_a_key_a_version_headers_and_explanations() -> None:
    target = Target(Address("https://h"), "a b", "1.0", True, "secret", {"X-One": "1", "Content-Type": "text/x"})
    (request,) = target.requests([(b"", "image/png")])
    first, *lines = request.split(b"\r\n")
    assert first == b"POST /explanations/a%20b/1.0 HTTP/1.1"
    assert {b"authorization: Bearer secret", b"x-one: 1", b"content-type: text/x"} <= set(lines)
    assert b"image/png" not in request


def test_places() -> None:
    own = Target(Address("https://127.0.0.1:8443"), "m").place
    assert own == Place("127.0.0.1", 8443, None, True, None)
    other = Target(Address("https://example.org"), "m").place
    assert (other.host, other.port, other.tls) == ("example.org", 443, True)
    assert other.authorities
    unix = Target(Address("unix:/tmp/x.sock"), "m")
    assert unix.place == Place("localhost", 0, "/tmp/x.sock", False, None)
    assert b"host: localhost\r\n" in unix.requests([(b"", "text/plain")])[0]


@pytest.mark.parametrize("name", ["a/b", "", ".."])
def test_names_that_no_address_can_hold_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        Target(Address("http://h"), name).requests([(b"", "text/plain")])


def test_headers_of_the_connection_are_not_chosen() -> None:
    with pytest.raises(InputError, match="content-length"):
        Target(Address("http://h"), "m", headers={"Content-Length": "7"}).requests([(b"", "text/plain")])
