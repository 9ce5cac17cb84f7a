"""What is captured of requests that a played engine answers, and that a batch job can read it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.errors import InputError
from serving.batch.lines import json_lines
from serving.batch.rows import Columns
from serving.control.configuration.config import default_properties
from serving.frontend.apps.exchange import close_parts
from serving.frontend.engine import Answer, Call
from serving.frontend.errors import UnavailableError
from serving.frontend.observing import capturing
from serving.frontend.observing.capturing import FILES, Capturing, _LeftOutError, _put
from serving.frontend.settings import Place, home_of, of
from serving.protocol import Parameter, Request

PICTURE = b"\x89PNG\r\n\xff"


def call(*parameters: tuple[str, bytes, str]) -> Call:
    return Call("mnist", None, Request("order-17", {"Cookie": "secret"}, tuple(Parameter(*one) for one in parameters)))


def captured(
    folder: Path,
    *asked: tuple[Call, Answer | Exception],
    share: float = 1.0,
    most: int = 1000,
    total: int = 10**6,
    without: tuple[str, ...] = (),
    read: bool = True,
) -> list[dict[str, Any]]:
    """Return the lines that there are when the calls were answered so."""

    async def main() -> None:
        capture = Capturing(folder, share, most, total, without)
        for one, told in asked:

            async def ask(_: Call, told: Answer | Exception = told) -> Answer:
                if isinstance(told, Exception):
                    raise told
                return told

            try:
                answer = await capture.predict(ask, one)
            except UnavailableError:
                continue
            if answer.rest is not None:
                if read:
                    _ = [part async for part in answer.rest]
                await close_parts(answer.rest)
        await capture.end()

    asyncio.run(main())
    return [json.loads(line) for line in (folder / "captured.jsonl").read_text().splitlines()]


def answer(body: bytes = b"7", status: int = 200, content_type: str = "", **more: Any) -> Answer:
    return Answer(status, "", content_type, {}, body, version="1.0", **more)


def test_a_request_and_its_answer(tmp_path: Path) -> None:
    (found,) = captured(tmp_path / "new", (call(("body", b'{"a": [1, 2]}', "application/json")), answer(b'{"b": 1}')))
    assert abs(time.mktime(time.strptime(found.pop("time")[:19], "%Y-%m-%dT%H:%M:%S")) - time.time()) < 60
    assert 0 <= found.pop("ms") < 1000
    assert found == {
        "request_id": "order-17",
        "model": "mnist",
        "version": "1.0",
        "status": 200,
        "content_type": "application/json",
        "input": {"a": [1, 2]},
        "answer": {"b": 1},
    }
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "captured.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ([("body", PICTURE, "image/png")], {"input_base64": base64.b64encode(PICTURE).decode()}),
        ([("body", b"a text", "text/plain")], {"input": "a text"}),
        ([("body", b"7", "text/plain")], {"input": "7"}),
        ([("body", b"7", "")], {"input": 7}),
        ([("body", b"a text", "")], {"input": "a text"}),
        ([("a", b"1", ""), ("b", PICTURE, "image/png")], {"input": {"a": 1, "b_base64": "iVBORw0K/w=="}}),
        ([], {"input": {}}),
    ],
)
def test_inputs(tmp_path: Path, parameters: list[tuple[str, bytes, str]], shown: dict[str, Any]) -> None:
    (found,) = captured(tmp_path, (call(*parameters), answer()))
    assert {name: value for name, value in found.items() if name.startswith("input")} == shown


def test_only_what_a_model_has_answered_is_kept_and_within_bounds(tmp_path: Path) -> None:
    one = call(("body", b"1", ""))
    found = captured(
        tmp_path,
        (one, answer(status=400)),
        (one, answer(counted=504)),
        (one, UnavailableError("full")),
        (one, answer(b"9" * 101)),
        (call(("body", b"9" * 101, "")), answer()),
        (call(("a", b"9" * 51, ""), ("b", b"9" * 51, "")), answer()),
        (one, answer(b"8")),
        most=100,
    )
    assert [line["answer"] for line in found] == [8]


def test_fields_are_left_out_wherever_they_are(tmp_path: Path) -> None:
    asked = call(("name", b"Eve", ""), ("body", b'{"age": 1, "b": [{"name": "Eve", "c": 2}]}', ""))
    of_text = call(("body", b'{"name": "Eve", "name": "Eve"}', "text/plain"))  # two readings: no JSON
    (found,) = captured(
        tmp_path, (asked, answer(b'{"name": "Eve", "d": 3}')), (of_text, answer()), without=("name", "age")
    )
    assert (found["input"], found["answer"]) == ({"body": {"b": [{"c": 2}]}}, {"d": 3})
    assert "Eve" not in (tmp_path / "captured.jsonl").read_text()


def test_the_only_parameter_is_left_out(tmp_path: Path) -> None:
    (found,) = captured(tmp_path, (call(("name", b"Eve", "")), answer()), without=("name",))
    assert found["input"] == {}


@given(st.binary(max_size=60), st.sampled_from(["", "application/json", "text/plain", "image/png"]))
def test_every_input_has_a_form(value: bytes, kind: str) -> None:
    found: dict[str, Any] = {}
    _put(found, "input", value, kind, ())
    json.dumps(found)
    try:
        _put({}, "input", value, kind, ("a",))
    except _LeftOutError:
        assert value.strip()
        assert kind == "application/json" or value.decode().lstrip()[:1] in ("{", "[")


@pytest.mark.parametrize(("read", "count"), [(True, 1), (False, 0)])
def test_a_stream_is_kept_whole_or_not(tmp_path: Path, read: bool, count: int) -> None:
    async def rest(*parts: bytes) -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    one = call(("body", b"1", ""))
    found = captured(
        tmp_path,
        (one, answer(b"a ", rest=rest(b"b ", b"c"))),
        (one, answer(b"a ", rest=rest(b"b" * 60, b"b" * 60))),
        read=read,
        most=100,
    )
    assert [line["answer"] for line in found] == ["a b c"] * count


def test_a_share(tmp_path: Path) -> None:
    many = [(call(("body", b"1", "")), answer())] * 400
    assert 50 < len(captured(tmp_path, *many, share=0.25)) < 160


def test_files_are_bounded_and_the_newest_lines_are_kept(tmp_path: Path) -> None:
    many = [(call(("body", str(number).encode(), "")), answer()) for number in range(300)]
    captured(tmp_path, *many[:150], total=10_000)
    captured(tmp_path, *many[150:], total=10_000)
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == FILES
    assert sum(path.stat().st_size for path in files) <= 10_000
    kept = sorted(json.loads(line)["input"] for path in files for line in path.read_text().splitlines())
    assert kept == list(range(300 - len(kept), 300))
    assert len(kept) > 30
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    (tmp_path / "captured.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match="nothing can be captured there") as caught:
        Capturing(tmp_path, 1.0, 10, 10)
    assert caught.value.where == str(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="no full disk to write to")
def test_a_full_disk_is_told_once_and_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.write
    full = [True]

    def half(file: int, data: Any) -> int:
        if not bytes(data).startswith(b'{"time"') or not full[0]:
            return write(file, data)
        if len(data) > 20:
            return write(file, data[:20])
        raise OSError(28, "No space left on device")

    def failing(file: int, data: Any) -> int:
        if full[0] and bytes(data[:7]) != b'{"time"':
            raise OSError(28, "No space left on device")
        return half(file, data)

    monkeypatch.setattr(capturing.os, "write", failing)
    one = call(("body", b"1", ""))
    assert captured(tmp_path, (one, answer()), (one, answer())) == []
    assert caplog.text.count("No space left on device") == 1
    full[0] = False
    assert len(captured(tmp_path, (one, answer()))) == 1


def test_a_batch_job_reads_it(tmp_path: Path) -> None:
    captured(
        tmp_path,
        (call(("body", PICTURE, "image/png")), answer(b"7")),
        (call(("body", b"[1, 2]", "")), answer(b'{"label": "cat"}')),
        (call(("body", b"a text", "text/plain")), answer(b"good")),
    )
    stream = io.BytesIO((tmp_path / "captured.jsonl").read_bytes())
    rows = [found.content() for found in json_lines(stream, Columns("input", "answer"), 10_000)]
    assert [(row.body, row.content_type, row.label) for row in rows] == [
        (PICTURE, "application/octet-stream", 7),
        (b"[1, 2]", "application/json", {"label": "cat"}),
        (b"a text", "text/plain", "good"),
    ]


def test_settings(tmp_path: Path) -> None:
    place = Place(tmp_path, home_of(None), tmp_path, tmp_path, tmp_path)

    def made(**properties: str) -> Capturing | None:
        return capturing.of(of(default_properties() | properties, place, {}))

    assert made() is None
    assert made(torchmar_capture_share="0") is None
    assert not (tmp_path / "captured").exists()
    capture = made(torchmar_capture_share="0.5", torchmar_capture_without=" a, b ,")
    assert capture is not None
    assert (capture.folder, capture._without) == (tmp_path / "captured", {"a", "b"})
    asyncio.run(capture.end())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_in_an_encoding_of_its_own_is_not_kept_with_what_is_left_out(encoding: str) -> None:
    body = '{"password": "secret"}'.encode(encoding)
    with pytest.raises(_LeftOutError):
        _put({}, "input", body, "application/json; charset=x", {"password"})
    kept: dict[str, Any] = {}
    _put(kept, "input", body, "application/json", ())
    assert len(kept) == 1
