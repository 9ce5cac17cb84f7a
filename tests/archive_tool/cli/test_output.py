"""The output of commands."""

import pytest

from archive_tool.cli.output import human_size, printable, show_error
from archive_tool.errors import BuildError, TorchmarError


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (4_600_000, "4.6 MB"),
        (99_960, "100 kB"),
        (999_700, "1.0 MB"),
        (12_345_678_901, "12.3 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_human_size(size, text):
    assert human_size(size) == text


def test_an_error_shows_what_where_and_hint(capsys):
    show_error(BuildError("what\n- one\n- two", where="file:3", hint="do this"))
    assert capsys.readouterr().err == "error: what\n  - one\n  - two\n  at: file:3\n  hint: do this\n"


def test_where_is_not_repeated(capsys):
    show_error(TorchmarError("x.py is odd", where="x.py"))
    assert capsys.readouterr().err == "error: x.py is odd\n"


def test_what_could_move_the_cursor_is_escaped(capsys):
    show_error(TorchmarError("a\x1b[2Jb\udcff é"))
    assert capsys.readouterr().err == "error: a\\x1b[2Jb\\udcff é\n"
    assert printable("a\nb") == "a\\nb"
    assert printable("é") == "é"
