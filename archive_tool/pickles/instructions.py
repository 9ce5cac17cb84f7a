"""The instructions of pickles: how each reads its argument, what it takes from the stack, and what it leaves there.

The table is that of the standard library's `pickletools`; added is what an argument tells about an import.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from archive_tool.pickles.blocks import Blocks

#: Bytes of an instruction whose length does not depend on its argument.
LARGEST_FIXED: Final = 9
LONGEST_TEXT: Final = 256
_LONGEST: Final = 1 << 62  # of what an unpickler could hold
_LENGTHS: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}


class StopReadingError(Exception):
    """These bytes are no instruction that can be followed; an unpickler stops here too."""


@dataclass(frozen=True)
class Instruction:
    """An instruction, as far as it is the same for all values."""

    name: str
    code: int
    read: Callable[[Blocks, int], str | int | None]  # its argument, of so many bytes; None for what is of no interest
    size: int  # of its argument, or how that is told; 0 if it has none
    from_mark: bool  # takes everything down to the mark
    taken: int  # and so many values
    pushes: bool  # and leaves one there
    calls: bool  # something that was imported may run
    changes: bool  # the first of the values that it takes


# ---- reading arguments -----------------------------------------------------------------------------------------------


def _fixed(source: Blocks, size: int) -> None:
    if size:
        source.take(size)


def _counted(source: Blocks, size: int) -> None:
    source.skip(_length(source, size))


def _length(source: Blocks, size: int) -> int:
    width, signed = _LENGTHS[size]
    length = int.from_bytes(source.take(width), "little", signed=signed)
    if not 0 <= length < _LONGEST:
        raise StopReadingError
    return length


def _text(source: Blocks, size: int) -> str | None:
    length = _length(source, size)
    if length > LONGEST_TEXT:
        source.skip(length)
        return None
    return decoded(source.take(length))


def _byte_text(source: Blocks, size: int) -> str | None:
    length = _length(source, size)
    if length > LONGEST_TEXT:
        source.skip(length)
        return None
    data = source.take(length)
    # The unpickler's caller says how texts of Python 2 are read; what is not ASCII is no name of a module.
    return data.decode("ascii") if data.isascii() else None


def _line(source: Blocks, _: int) -> None:
    source.line()


def _text_line(source: Blocks, _: int) -> str | None:
    return _plain_text(source.line())


def _quoted_line(source: Blocks, _: int) -> str | None:
    line = source.line()
    if line is None:
        return None
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise StopReadingError
    return _plain_text(line[1:-1])


def _number(source: Blocks, size: int) -> int:
    return int.from_bytes(source.take(size), "little", signed=size == 4)


def _number_line(source: Blocks, _: int) -> int | None:
    line = source.line()
    plain = line is not None and len(line) <= LARGEST_FIXED and line.removeprefix(b"-").isdigit()
    return int(line) if plain and line else None


def decoded(data: bytes) -> str:
    """Decode a name.

    Raises:
        StopReadingError: it is not UTF-8, which stops an unpickler. Any other text is compared with nothing.
    """
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise StopReadingError from error


def _plain_text(line: bytes | None) -> str | None:
    """Return the text of UNICODE or STRING; None if it has escapes."""
    if line is None or b"\\" in line or len(line) > LONGEST_TEXT or not line.isascii():
        return None
    return line.decode("ascii")


# ---- the table -------------------------------------------------------------------------------------------------------

_READERS: Final[dict[str, Callable[[Blocks, int], str | int | None]]] = {
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _text),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _byte_text),
    **dict.fromkeys(("BININT", "BININT1", "BININT2"), _number),
    "INT": _number_line,
    "STRING": _quoted_line,
    "UNICODE": _text_line,
}
_CALLS: Final = frozenset({"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
_CHANGES: Final = frozenset({"BUILD", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS"})


def _instruction(info: pickletools.OpcodeInfo) -> Instruction:
    name, size, before = info.name, info.arg.n if info.arg else 0, info.stack_before
    from_mark = pickletools.markobject in before
    # What stands before the mark in the table is taken too, such as the list of APPENDS.
    taken = before.index(pickletools.markobject) if from_mark else len(before)
    by_size = _line if size == pickletools.UP_TO_NEWLINE else _counted if size in _LENGTHS else _fixed
    pushes, calls, changes = bool(info.stack_after), name in _CALLS, name in _CHANGES
    reader = _READERS.get(name, by_size)
    return Instruction(name, ord(info.code), reader, size, from_mark, taken, pushes, calls, changes)


INSTRUCTIONS: Final = {info.name: _instruction(info) for info in pickletools.opcodes}


def has_plain_value(instruction: Instruction) -> bool:
    """Return whether an instruction has a fixed length, and only leaves a value of no interest."""
    takes = instruction.from_mark or instruction.taken
    return instruction.read is _fixed and instruction.pushes and not takes
