from __future__ import annotations

import pytest

from archive_tool.exit_codes import how_it_ended


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with the exit code 0"),
        (3, "ended with the exit code 3"),
        (-9, "was killed (by the system, for lack of memory?)"),
        (137, "was killed (by the system, for lack of memory?)"),
        (-11, "crashed: SIGSEGV"),
        (-15, "was ended by SIGTERM"),
        (-99, "crashed: signal 99"),
    ],
)
def test_how_a_process_ended(code: int, words: str) -> None:
    assert how_it_ended(code) == words
