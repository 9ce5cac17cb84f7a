"""The issues of an archive, and the exit code of each."""

from pathlib import Path

import pytest

from archive_tool.errors import AlteredArchiveError, UnreadableArchiveError, UnsafeArchiveError
from archive_tool.issues import Issue, Kind, Problem, exit_code, refuse, worst

NOTE, UNREADABLE, ALTERED, UNSAFE = (Issue(kind, f"it is {kind.value}") for kind in Kind)


@pytest.mark.parametrize(
    ("issues", "kind", "code"),
    [
        ([], None, 0),
        ([NOTE], None, 0),
        ([NOTE, UNREADABLE], Kind.UNREADABLE, 3),
        ([ALTERED, UNREADABLE], Kind.ALTERED, 4),
        ([UNREADABLE, UNSAFE, ALTERED], Kind.UNSAFE, 5),
    ],
)
def test_the_worst_counts(issues, kind, code):
    assert worst(issues) is kind
    assert exit_code(worst(issues)) == code


@pytest.mark.parametrize(
    ("issue", "error"),
    [(UNREADABLE, UnreadableArchiveError), (ALTERED, AlteredArchiveError), (UNSAFE, UnsafeArchiveError)],
)
def test_refusing_names_all_but_notes(issue, error):
    refuse(Path("a.mar"), [NOTE])
    with pytest.raises(error, match=r"a\.mar .*\n- it is") as caught:
        refuse(Path("a.mar"), [issue, NOTE, issue])
    assert len(caught.value.message.splitlines()) == 3
    assert caught.value.hint


def test_a_problem():
    problem = Problem("odd", where="there", hint="look")
    assert str(problem) == "there: odd (look)"
    assert str(Problem("odd")) == "odd"
    assert problem.to_dict() == {"message": "odd", "where": "there", "hint": "look"}
    assert Problem("odd").to_dict() == {"message": "odd"}
