"""Saved programs of which torch would make code; those that are seen to run are in ../test_hidden_pickles.py."""

import io

from archive_tool.weights import scan
from tests import hostile_programs


def test_what_would_become_code_is_refused():
    for what, program in hostile_programs.others():
        problems = list(scan.scan(io.BytesIO(program), "m.pt2"))
        assert len(problems) == 1, what
        assert "model.json', which may run code when it is loaded: at graph_module." in problems[0], what


def test_as_torch_wrote_it():
    assert list(scan.scan(io.BytesIO(hostile_programs.written(hostile_programs.members())), "m.pt2")) == []
