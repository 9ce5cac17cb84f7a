"""Saved programs of which torch would make code; those that are seen to run are in ../test_hidden_pickles.py."""

import io

import pytest

from archive_tool.weights import scan
from tests import hostile_programs


@pytest.mark.parametrize(
    ("what", "program"), hostile_programs.others(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_would_become_code_is_refused(what, program):
    problems = list(scan.scan(io.BytesIO(program), "m.pt2"))
    assert len(problems) == 1
    assert "'archive/models/model.json', which may run code when it is loaded: at graph_module." in problems[0]


def test_as_torch_wrote_it():
    assert list(scan.scan(io.BytesIO(hostile_programs.written(hostile_programs.members())), "m.pt2")) == []
