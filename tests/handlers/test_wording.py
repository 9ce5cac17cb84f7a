"""Several things in one message."""

from __future__ import annotations

from handlers.wording import first_of


def test_the_first_are_named_and_the_others_counted() -> None:
    assert first_of([], 2) == ""
    assert first_of(["a"], 2) == "a"
    assert first_of(["a", "b"], 2) == "a, b"
    assert first_of(["a", "b", "c"], 2) == "a, b and 1 more"
    assert first_of(["a: 1", "b: 2", "c: 3", "d: 4"], 2, "; ") == "a: 1; b: 2; and 2 more"
