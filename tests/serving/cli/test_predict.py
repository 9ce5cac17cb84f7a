from __future__ import annotations

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
