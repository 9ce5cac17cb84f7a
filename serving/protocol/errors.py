"""The one error of this package."""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer sent bytes that are not a message; the stream cannot be read any further.

    Attributes:
        expected: what should have stood there, with its bounds.
        found: what stood there instead.
        offset: where, in bytes from the start of the message.
    """

    def __init__(self, expected: str, found: str, offset: int) -> None:
        super().__init__(f"expected {expected}, found {found}, at byte {offset} of the message")
        self.expected = expected
        self.found = found
        self.offset = offset

    def __reduce__(self) -> tuple[type[ProtocolError], tuple[str, str, int]]:
        return type(self), (self.expected, self.found, self.offset)
