"""extract on the command line."""

import re
from pathlib import Path

import archive_tool


def test_extract(options, torchmar):
    result = archive_tool.build(**options)
    done = torchmar("extract", result.path, "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"out  \d\.\d kB  4 members\n", done.stdout)
    assert Path("out/h.py").read_bytes() == Path("h.py").read_bytes()
    done = torchmar("extract", result.path, "out")
    assert done.returncode == 1
    assert "out is not empty" in done.stderr
    assert torchmar("extract", "-q", result.path, "other").stdout == ""


def test_extract_refuses_as_a_whole(make_zip, torchmar, work):
    done = torchmar("extract", make_zip([("fine", b"1"), ("../evil", b"1")]), "out")
    assert done.returncode == 5
    assert "'../evil' leads out of the archive" in done.stderr
    assert not Path("out").exists()
