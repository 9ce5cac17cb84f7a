"""From forms and queries to parameters, in themselves."""

from __future__ import annotations

import time
from urllib.parse import quote_from_bytes, urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.apps.inputs import MOST_FIELDS, fields, inputs_of, multipart, takes_long
from serving.frontend.errors import BadRequestError

# What `str.isprintable` says. Not a filter: it would leave out so many that Hypothesis gives up at times.
_PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
_NAMES = st.text(_PRINTABLE, min_size=1)


@given(st.lists(st.tuples(_NAMES, st.binary())))
def test_urlencoded_fields_come_back(pairs: list[tuple[str, bytes]]) -> None:
    text = "&".join(f"{quote_from_bytes(name.encode(), safe='')}={quote_from_bytes(value)}" for name, value in pairs)
    found = inputs_of("application/x-www-form-urlencoded", text.encode())
    assert [(one.name, bytes(one.value), one.content_type) for one in found] == [(n, v, "") for n, v in pairs]


@given(st.dictionaries(_NAMES, st.text(_PRINTABLE)))
def test_a_query_comes_back(values: dict[str, str]) -> None:
    assert {one.name: one.value.decode() for one in fields(urlencode(values).encode(), "query")} == values


_PLAIN = _NAMES.filter(lambda text: not {'"', "\\"}.intersection(text))
_FILES = st.tuples(_PLAIN, st.binary(), st.sampled_from(["image/png", "text/plain", "a/b"]))


@given(st.dictionaries(_PLAIN, _FILES, min_size=1))
def test_files_of_a_multipart_form_come_back(files: dict[str, tuple[str, bytes, str]]) -> None:
    sent = httpx.Request("POST", "http://x", files=files)
    found = inputs_of(sent.headers["content-type"], sent.read())
    assert [(one.name, bytes(one.value), one.content_type) for one in found] == [
        (name, content, kind) for name, (_, content, kind) in files.items()
    ]


@given(st.binary(), st.sampled_from(["multipart/form-data; boundary=B", "application/x-www-form-urlencoded", ""]))
def test_whatever_comes_is_parameters_or_a_bad_request(body: bytes, kind: str) -> None:
    try:
        found = inputs_of(kind, body)
    except BadRequestError:
        return
    assert all(one.name for one in found)


_PIECES = [
    b"--B",
    b"--",
    b"\r\n",
    b"Content-Disposition: form-data",
    b'; name="a"',
    b'; filename="b"',
    b"\r\n\r\n",
    b"x",
]
_PIECES += [b"Content-Type: text/plain", b"Content-Transfer-Encoding: 8bit", b":", b"\x00\xff", b'; name="', b"\\"]


@given(st.lists(st.sampled_from(_PIECES), max_size=30), st.text(st.characters(max_codepoint=255), max_size=80))
def test_almost_a_form_is_parameters_or_a_bad_request(pieces: list[bytes], boundary: str) -> None:
    for kind in ("multipart/form-data; boundary=B", f"multipart/form-data; boundary={boundary}"):
        try:
            found = multipart(kind, b"".join(pieces))
        except BadRequestError:
            continue
        assert all(one.name for one in found)


def test_a_form_of_line_ends_takes_no_time() -> None:
    before = time.process_time()
    assert len(inputs_of("application/x-www-form-urlencoded", b"a=" + b"\n" * 6_000_000 + b"x")) == 1
    assert time.process_time() - before < 10  # quadratic, it would be hours


def test_a_header_has_so_many_parameters() -> None:
    """What reads them takes the square of their number: 800 such parts took ten seconds."""
    part = b"--b\r\ncontent-disposition: form-data; " + b";" * 7000 + b'name="a"\r\n\r\nx\r\n'
    for kind, body in (
        ("multipart/form-data; boundary=b", part * 800 + b"--b--"),
        ("multipart/form-data; " + ";" * 60_000 + "boundary=b", b"--b--"),
    ):
        began = time.monotonic()
        with pytest.raises(BadRequestError, match="parameters"):
            inputs_of(kind, body)
        assert time.monotonic() - began < 0.5


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("application/x-www-form-urlencoded", b"a=" + b"%41" * 10_000, True),
        ("application/x-www-form-urlencoded; charset=utf-8", b"a=b&" * 9000, True),
        ("Multipart/Form-Data; boundary=b", b"\r\n--b\r\n\r\n" * 5000, True),
        ("application/x-www-form-urlencoded", b"a=" + b"b" * 5_000_000, False),
        ("multipart/form-data; boundary=b", b"\r\n--b\r\n\r\n" + bytes(5_000_000), False),
        ("application/octet-stream", b"%" * 5_000_000, False),
        ("application/x-www-form-urlencoded", b"a=%41", False),
    ],
)
def test_what_takes_long_is_known_before(kind: str, body: bytes, expected: bool) -> None:
    assert takes_long(kind, body) == expected


def test_a_form_has_so_many_fields() -> None:
    most = b"&".join([b"a=1"] * MOST_FIELDS)
    assert len(fields(most, "form")) == MOST_FIELDS
    with pytest.raises(BadRequestError, match=f"more than {MOST_FIELDS} fields"):
        fields(most + b"&a=1", "form")
    part = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    assert len(multipart("multipart/form-data; boundary=B", part * MOST_FIELDS + b"--B--\r\n")) == MOST_FIELDS
    with pytest.raises(BadRequestError, match=f"more than {MOST_FIELDS} fields"):
        multipart("multipart/form-data; boundary=B", part * (MOST_FIELDS + 1) + b"--B--\r\n")


def test_a_part_has_headers_within_bounds() -> None:
    for header in (b"X: " + b"x" * 10_000, b"\r\n".join(b"X-%d: 1" % n for n in range(1000))):
        form = b'--B\r\nContent-Disposition: form-data; name="a"\r\n' + header + b"\r\n\r\n1\r\n--B--\r\n"
        with pytest.raises(BadRequestError, match="header"):
            multipart("multipart/form-data; boundary=B", form)


def test_a_bad_form_leaves_no_line_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BadRequestError):
        multipart("multipart/form-data; boundary=B", b"nothing of the kind")
    assert not caplog.records
