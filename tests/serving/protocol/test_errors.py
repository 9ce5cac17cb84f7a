from __future__ import annotations

import pickle

from serving.protocol import ProtocolError


def test_an_error_says_what_was_expected_what_was_found_and_where() -> None:
    error = ProtocolError("a command, 'L' or 'I'", "b'X'", 0)
    assert str(error) == "expected a command, 'L' or 'I', found b'X', at byte 0 of the message"
    assert (error.expected, error.found, error.offset) == ("a command, 'L' or 'I'", "b'X'", 0)


def test_an_error_survives_pickling_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ProtocolError("a", "b", 3)))
    assert (error.expected, error.found, error.offset) == ("a", "b", 3)
