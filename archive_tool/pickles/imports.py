"""Which names a pickle would import, read without unpickling it.

A pickle is a program for a stack machine (the standard library's `pickletools` lists its instructions). It runs code
through what it imports only, so a pickle is data if it imports nothing but constructors of data. The reading is in
constant memory, for a checkpoint of gigabytes may be one pickle, and it simulates the stack, for the names of an
import may have been pushed long before.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final

from archive_tool.pickles import element_types, names
from archive_tool.pickles.blocks import Blocks, ShortError

if TYPE_CHECKING:
    from collections.abc import Callable

#: What the pickles of an archive may cost together, in plain instructions: 100,000 tensors, or about two seconds.
MAX_INSTRUCTIONS: Final = 8_000_000
#: Values that may be on the stack, and places of the memo; a block may bring so many more.
MAX_DEPTH: Final = 1_000_000
#: Bytes that the slower second reader looks through, in all the pickles of an archive together.
MAX_SECOND: Final = 1 << 20
#: Bytes that archives in an archive are unpacked to, over all levels together; or so many times the archive's own size.
MAX_UNPACKED: Final = 256 << 20
_GROWTH: Final = 20
#: Entries of the lists of such archives, and headers of numpy, each in units of what the shortest one takes.
MAX_HEADERS: Final = 200_000
#: Pickles may follow each other in a file; old checkpoints of torch are five.
MAX_PICKLES: Final = 1000

#: An instruction that reads an argument or looks at the stack takes as long as so many plain ones.
_SLOW_STEP: Final = 4
_LONGEST_TEXT: Final = 256
_LONGEST: Final = 1 << 62  # of what an unpickler could hold
_LARGEST_FIXED: Final = 9  # bytes of an instruction whose length does not depend on its argument
_LENGTHS: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}


class Budget:
    """How much may still be read, in all the files of an archive that share it.

    Args:
        packed: bytes of the archive.

    Attributes:
        left: instructions of pickles.
        second: bytes that another reader may look through, too.
        unpacked: bytes that archives in the archive may be unpacked to.
        headers: units of headers.
    """

    def __init__(self, packed: int = 0) -> None:
        self.left = MAX_INSTRUCTIONS
        self.second = MAX_SECOND
        self.unpacked = max(MAX_UNPACKED, _GROWTH * packed)
        self.headers = MAX_HEADERS

    def unpack(self, count: int) -> bool:
        """Take so many bytes to unpack; says whether they were left. What is refused takes nothing."""
        enough = count <= self.unpacked
        self.unpacked -= count if enough else 0
        return enough

    def read_headers(self, units: int) -> bool:
        """Take so many units of headers; says whether they were left."""
        self.headers = max(-1, self.headers - units)
        return self.headers >= 0


@dataclass
class Imports:
    """What a pickle, or several in a row, would import.

    Attributes:
        names: each as ``module.name``.
        unknown: an import whose name could not be told.
        changes: something that is imported would be given other attributes or items.
        odd_types: a type of numpy's elements would be made as numpy itself does not write it.
        too_long: reading was given up.
        cut: the stream ended within a pickle.
        count: so many pickles were read to their end.
        first_end: bytes of the first one.
        end: bytes of all of these.
    """

    names: set[str] = field(default_factory=set)
    unknown: bool = False
    changes: bool = False
    odd_types: bool = False
    too_long: bool = False
    cut: bool = False
    count: int = 0
    first_end: int = 0
    end: int = 0

    @property
    def complete(self) -> bool:
        """Whether at least one pickle was read to its end."""
        return self.count > 0


class _StopReadingError(Exception):
    """These bytes are no instruction that can be followed; an unpickler stops here too."""


class _TooLongError(Exception):
    """The pickle is beyond what we read."""


def imports(stream: IO[bytes], budget: Budget | None = None) -> Imports:
    """Read the pickles that begin at the stream's position.

    What precedes a damaged place counts: an unpickler has run it when it comes there. Many a text file begins like a
    pickle of protocol 0, which has no mark of its own; what such a one imports counts if it is called, or if the pickle
    ends as it should.

    Args:
        stream: seekable, or it is read through; stands anywhere afterwards.
        budget: of instructions; by default one for this call.

    Raises:
        OSError, ArchiveError: the stream cannot be read.
    """
    found = Imports()
    source = Blocks(stream)
    machine = _Machine(source, found, budget or Budget())
    try:
        for _ in range(MAX_PICKLES):
            machine.run()
            found.count += 1
            found.end = source.told()
            found.first_end = found.first_end or found.end
        found.too_long = True
    except _StopReadingError:
        pass
    except ShortError:
        found.cut = source.told() > found.end
    except _TooLongError:
        found.too_long = True
    return found


class _Special:
    """A value that is neither plain nor of no interest."""


class _Import(_Special):
    """What an import gives."""


@dataclass(frozen=True)
class _ElementType(_Special):
    """The type of an array's elements."""

    letter: str


_NAME: Final = _Import()
_NOTHING: Final = _Special()  # Python's None
#: What makes types of elements, or takes these, is called at once, and given to nothing else that could call it.
_DTYPE, _SCALAR = _Import(), _Import()
_GUARDED: Final = {
    "numpy.dtype": _DTYPE,
    "numpy._core.multiarray.scalar": _SCALAR,
    "numpy.core.multiarray.scalar": _SCALAR,
}
_UNTOLD: Final = object()  # in a tuple, for None on the stack
# A text, a number, a tuple of a few plain values, something special, or anything else.
_Value = str | int | tuple[object, ...] | _Special | None


class _Machine:
    def __init__(self, source: Blocks, found: Imports, budget: Budget) -> None:
        self._source = source
        self._found = found
        self._budget = budget
        self._stack: list[_Value] = []
        self._marks: list[int] = []  # how many values were there when each was set
        self._memo: dict[int, _Value] = {}
        self._pending: set[str | None] = set()  # None for a name that cannot be told
        self._protocol: int | None = None
        self._guarded = False  # something of `_GUARDED` was imported

    def run(self) -> None:
        """Go through one pickle, to its STOP."""
        self._stack, self._marks, self._memo, self._pending = [], [], {}, set()
        self._protocol = None
        while not self._block():
            self._check_depth()
        self._confirm()

    def _check_depth(self) -> None:
        if max(len(self._stack), len(self._marks), len(self._memo)) > MAX_DEPTH:
            raise _TooLongError

    def _block(self) -> bool:
        """Follow the instructions of a block. Says whether the last one was STOP.

        Those that large pickles are made of are followed here, some three millions a second; the others in `_step`.
        """
        source, stack, marks, memo, budget = self._source, self._stack, self._marks, self._memo, self._budget
        pushes = _PUSHES
        source.fill(_LARGEST_FIXED)
        buffer, position = source.buffer, source.position
        # Before that, an instruction of a fixed length is in the buffer as a whole.
        limit = len(buffer) if source.ended else len(buffer) - _LARGEST_FIXED + 1
        left = budget.left
        try:
            while position < limit:
                left -= 1
                if left < 0:
                    raise _TooLongError
                op = buffer[position]
                if length := pushes[op]:
                    stack.append(_NOTHING if op == _NONE else None)
                    position += length
                elif op in (_BINPUT, _MEMOIZE):
                    if len(stack) <= (marks[-1] if marks else 0):
                        raise _StopReadingError
                    memo[len(memo) if op == _MEMOIZE else buffer[position + 1]] = stack[-1]
                    position += 1 if op == _MEMOIZE else 2
                elif op in (_BININT1, _BINGET):
                    stack.append(buffer[position + 1] if op == _BININT1 else memo[buffer[position + 1]])
                    position += 2
                elif op == _MARK_OP:
                    marks.append(len(stack))
                    position += 1
                else:
                    source.position = position + 1
                    left -= _SLOW_STEP - 1
                    self._step(op)
                    if op == _STOP:
                        return True
                    position = source.position
                    if source.buffer is not buffer:
                        return False
        except LookupError as error:  # the file ends within the instruction, or the memo has no such place
            raise (ShortError if isinstance(error, IndexError) else _StopReadingError) from None
        finally:
            budget.left = left
        source.position = position
        if source.ended and position >= len(buffer):
            raise ShortError
        return False

    def _step(self, op: int) -> None:
        code = _CODES[op]
        if code is None:
            raise _StopReadingError
        code.action(self, code)
        if self._pending and (self._protocol is not None or code.calls):
            self._confirm()

    def _confirm(self) -> None:
        self._found.unknown = self._found.unknown or None in self._pending
        self._found.names |= {name for name in self._pending if name is not None}
        self._pending.clear()

    def _move(self, code: _Code, value: _Value) -> None:
        """Take what an instruction takes from the stack, and leave a value there if it leaves any."""
        stack, marks = self._stack, self._marks
        if code.from_mark:
            if not marks:
                raise _StopReadingError
            mark = marks.pop()
            self._check_guarded(code, mark)
            del stack[mark:]
        if taken := code.taken:
            # An unpickler stops there, too: nothing below the last mark can be taken.
            if len(stack) - (marks[-1] if marks else 0) < taken:
                raise _StopReadingError
            if code.changes and isinstance(stack[-taken], _Import):
                self._found.changes = True
            self._check_guarded(code, len(stack) - taken)
            del stack[-taken:]
        if code.pushes:
            stack.append(value)

    def _check_guarded(self, code: _Code, start: int) -> None:
        """Tell if an instruction puts one of `_GUARDED` into something else."""
        if self._guarded and code.pushes:
            gone = self._stack[start:]
            self._found.odd_types = self._found.odd_types or _DTYPE in gone or _SCALAR in gone

    def _import(self, module: object, attribute: object) -> _Import:
        """Write down an import, whatever its name looks like: what can be found is known to the unpickler only."""
        told = isinstance(module, str) and isinstance(attribute, str)
        name = names.of(str(module), str(attribute), self._protocol or 0) if told else None
        self._pending.add(name)
        self._guarded = self._guarded or name in _GUARDED
        return _GUARDED.get(name or "", _NAME)

    # ---- what instructions do; `_ACTIONS` says which -----------------------------------------------------------------

    def plain(self, code: _Code) -> None:
        if code.size:
            self._source.take(code.size)
        self._move(code, None)

    def pop(self, code: _Code) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._move(code, None)

    def dup(self, code: _Code) -> None:  # noqa: ARG002
        self._stack.append(self._top())

    def _top(self) -> _Value:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise _StopReadingError
        return self._stack[-1]

    def put(self, code: _Code) -> None:
        self._memo[self._place(code)] = self._top()

    def get(self, code: _Code) -> None:
        self._stack.append(self._memo[self._place(code)])

    def _place(self, code: _Code) -> int:
        """The place of the memo that an instruction names."""
        if code.size == pickletools.UP_TO_NEWLINE:
            if (line := self._source.line()) is None:
                raise _TooLongError
            return _number(line)
        return int.from_bytes(self._source.take(code.size or 0), "little")

    def counted(self, code: _Code) -> None:
        self._source.skip(self._length(code))
        self._move(code, None)

    def text(self, code: _Code) -> None:
        length = self._length(code)
        if length > _LONGEST_TEXT:
            self._source.skip(length)
            self._move(code, None)
        else:
            self._move(code, _text(self._source.take(length)))

    def byte_text(self, code: _Code) -> None:
        length = self._length(code)
        data = b"\xff" if length > _LONGEST_TEXT else self._source.take(length)
        if length > _LONGEST_TEXT:
            self._source.skip(length)
        # How the texts of Python 2 are read is told to the unpickler; what is not ASCII is no name of a module.
        self._move(code, data.decode("ascii") if data.isascii() else None)

    def _length(self, code: _Code) -> int:
        width, signed = _LENGTHS[code.size or 0]
        length = int.from_bytes(self._source.take(width), "little", signed=signed)
        if not 0 <= length < _LONGEST:
            raise _StopReadingError
        return length

    def line(self, code: _Code) -> None:
        self._source.line()
        self._move(code, None)

    def text_line(self, code: _Code) -> None:
        self._move(code, _plain_text(self._source.line()))

    def quoted_line(self, code: _Code) -> None:
        line = self._source.line()
        if line is not None:
            line = line.strip()
            if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
                raise _StopReadingError
        self._move(code, _plain_text(None if line is None else line[1:-1]))

    def import_lines(self, code: _Code) -> None:
        lines = self._source.line(), self._source.line()
        found = self._import(*(None if line is None else _text(line) for line in lines))
        if code.calls and found is not _NAME:
            self._found.odd_types = True
        self._move(code, None if code.calls else found)

    def import_from_stack(self, code: _Code) -> None:
        module, attribute = self._stack[-2:] if len(self._stack) > 1 else (None, None)
        self._move(code, None)
        self._stack[-1] = self._import(module, attribute)

    def extension(self, code: _Code) -> None:
        self._source.take(code.size or 0)
        self._import(None, None)  # whatever was registered under that number
        self._move(code, _NAME)

    def number(self, code: _Code) -> None:
        self._move(code, int.from_bytes(self._source.take(code.size or 0), "little", signed=code.size == 4))

    def number_line(self, code: _Code) -> None:
        line = self._source.line()
        plain = line is not None and len(line) <= _LARGEST_FIXED and line.removeprefix(b"-").isdigit()
        self._move(code, int(line) if plain and line else None)

    def collect(self, code: _Code) -> None:
        """Make a tuple; a long one, and what is deep in one, is of no interest."""
        stack = self._stack
        start = (self._marks[-1] if self._marks else 0) if code.from_mark else max(0, len(stack) - code.taken)
        parts = tuple(map(_part, stack[start:])) if len(stack) - start <= _LARGEST_FIXED else None
        self._move(code, parts)

    def call(self, code: _Code) -> None:
        function, args = self._stack[-2:] if len(self._stack) > 1 else (None, None)
        result: _Value = None
        if function is _DTYPE:
            letter = element_types.kind(args)
            result = _ElementType(letter or "?")
            self._found.odd_types = self._found.odd_types or letter is None
        elif function is _SCALAR:
            element = args[0] if isinstance(args, tuple) and args else None
            # One of an object would give back what it is given.
            plain = isinstance(element, _ElementType) and element.letter != "O"
            self._found.odd_types = self._found.odd_types or not plain
        if function in (_DTYPE, _SCALAR):
            self._stack[-2] = _NAME
        self._move(code, result)

    def build(self, code: _Code) -> None:
        target, state = self._stack[-2:] if len(self._stack) > 1 else (None, None)
        if isinstance(target, _ElementType) and not element_types.is_plain(target.letter, state):
            self._found.odd_types = True
        self._move(code, target)

    def protocol(self, code: _Code) -> None:
        self._protocol = self._source.take(code.size or 0)[0]


@dataclass(frozen=True)
class _Code:
    """An instruction: what it reads, and what it does to the stack."""

    action: Callable[[_Machine, _Code], None]
    size: int | None  # of its argument, or how that is told; None if it has none
    from_mark: bool  # takes everything down to the mark
    taken: int  # and so many values
    pushes: bool  # and leaves one there
    calls: bool  # something that was imported may run
    changes: bool  # the first of the values that it takes


_ACTIONS: Final = {
    **dict.fromkeys(("PUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.text),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _Machine.byte_text),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine.extension),
    **dict.fromkeys(("GLOBAL", "INST"), _Machine.import_lines),
    **dict.fromkeys(("BININT", "BININT1", "BININT2"), _Machine.number),
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), _Machine.collect),
    "BUILD": _Machine.build,
    "DUP": _Machine.dup,
    "INT": _Machine.number_line,
    "POP": _Machine.pop,
    "PROTO": _Machine.protocol,
    "REDUCE": _Machine.call,
    "STACK_GLOBAL": _Machine.import_from_stack,
    "STRING": _Machine.quoted_line,
    "UNICODE": _Machine.text_line,
}
_CALLS: Final = frozenset({"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
_CHANGES: Final = frozenset({"BUILD", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS"})


def _code(info: pickletools.OpcodeInfo) -> _Code:
    name, size, before = info.name, info.arg.n if info.arg else None, info.stack_before
    from_mark = pickletools.markobject in before
    # What stands before the mark in the table is taken too, such as the list of APPENDS.
    taken = before.index(pickletools.markobject) if from_mark else len(before)
    action = _Machine.plain
    if size == pickletools.UP_TO_NEWLINE:
        action = _Machine.line
    elif size in _LENGTHS:
        action = _Machine.counted
    pushes = bool(info.stack_after)
    return _Code(_ACTIONS.get(name, action), size, from_mark, taken, pushes, name in _CALLS, name in _CHANGES)


_CODES_BY_NAME: Final = {info.name: _code(info) for info in pickletools.opcodes}
_OP: Final = {info.name: ord(info.code) for info in pickletools.opcodes}
_CODES: Final = [
    next((_CODES_BY_NAME[name] for name, op in _OP.items() if op == number), None) for number in range(256)
]
_MARK_OP, _STOP, _MEMOIZE, _BINPUT = (_OP[name] for name in ("MARK", "STOP", "MEMOIZE", "BINPUT"))
_BINGET, _BININT1, _NONE = (_OP[name] for name in ("BINGET", "BININT1", "NONE"))


def _plain_pushes() -> bytes:
    """By the code of an instruction: its length if it pushes a value of no interest, and does nothing else."""
    lengths = bytearray(256)
    for name, code in _CODES_BY_NAME.items():
        plain = code.action is _Machine.plain and not code.from_mark and not code.taken
        if plain and code.pushes and name not in ("MARK", "BINGET"):
            lengths[_OP[name]] = 1 + (code.size or 0)
    return bytes(lengths)


_PUSHES: Final = _plain_pushes()


def _part(value: _Value) -> object:
    """A value as it stands in a tuple: numbers, short texts and None are what they are."""
    if value is _NOTHING:
        return None
    deep = isinstance(value, tuple) and any(isinstance(part, tuple) for part in value)
    long = isinstance(value, str) and len(value) > _LARGEST_FIXED
    return _UNTOLD if value is None or deep or long else value


def _text(data: bytes) -> str:
    # A module's name that is not UTF-8 stops an unpickler. Any other text is compared with nothing.
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise _StopReadingError from error


def _plain_text(line: bytes | None) -> str | None:
    """The text of UNICODE or STRING as far as it can be told: without escapes."""
    if line is None or b"\\" in line or len(line) > _LONGEST_TEXT or not line.isascii():
        return None
    return line.decode("ascii")


def _number(line: bytes) -> int:
    try:
        return int(line.split(b"\0")[0])  # to C's unpickler that is the end of a number
    except ValueError as error:
        raise _StopReadingError from error
