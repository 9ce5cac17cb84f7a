from __future__ import annotations

import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from archive_tool.cli.entry import main
from archive_tool.errors import InputError
from serving.cli.predict import _print_predictions, _short, prediction_to_dict
from serving.client import Prediction


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (Prediction("a", 200, 0.0012345, 7, None), {"file": "a", "status": 200, "ms": 1.23, "answer": 7}),
        (
            Prediction("a", 400, 0.001, None, "bad"),
            {"file": "a", "status": 400, "ms": 1.0, "error": "bad"},
        ),
        (
            Prediction("a", 200, 0.001, b"\xff\x00", None),
            {"file": "a", "status": 200, "ms": 1.0, "answer_base64": "/wA="},
        ),
        (Prediction("a", 200, 0.001, None, None), {"file": "a", "status": 200, "ms": 1.0, "answer": None}),
    ],
)
def test_rows_for_programs(prediction: Prediction, expected: dict[str, object]) -> None:
    assert prediction_to_dict(prediction) == expected


def test_long_answers_are_cut_with_a_word_about_it() -> None:
    assert _short("x" * 400) == "x" * 400
    assert _short("x" * 401).endswith("(401 characters; --json shows all)")
    assert _short(b"abc") == "3 bytes"
    assert _short({"ü": [1]}) == '{"ü": [1]}'


def test_an_answer_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    _print_predictions([Prediction("a", 200, 0.001, "\x1b[31mred [bold]x", None)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[31mred [bold]x" in shown


def test_standard_input_is_read_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Said before a server is asked: the second request would be empty."""
    assert main(["predict", "mnist", "-", "-", "--inference", "http://127.0.0.1:1"]) == InputError.exit_code
    assert "- is named twice" in capsys.readouterr().err


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Message]]]:
    """Start a server that notes the headers of each request; yields its address and them."""
    heard: list[Message] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            heard.append(self.headers)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", heard
        server.shutdown()
        thread.join()


def test_headers_are_sent(listener: tuple[str, list[Message]], tmp_path: Path) -> None:
    address, heard = listener
    (tmp_path / "in.json").write_text("1")
    ask = ["predict", "m", str(tmp_path / "in.json"), "--inference", address]
    assert main([*ask, "--header", "X-Request-Id=a=b", "--header", "x-empty="]) == 0
    assert [heard[0][name] for name in ("x-request-id", "x-empty", "content-type")] == ["a=b", "", "application/json"]
    assert main([*ask, "--header", "Content-Type=text/plain"]) == 0
    assert heard[1].get_all("content-type") == ["text/plain"]


@pytest.mark.parametrize("text", ["x", "=1", "a b=1", "x: y", "x=a\r\nb: c", "x=ü"])
def test_a_header_that_cannot_be_sent_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.json").write_text("1")
    assert main(["predict", "m", str(tmp_path / "in.json"), "--header", text]) == 2
    assert "Invalid value for '--header'" in capsys.readouterr().err
