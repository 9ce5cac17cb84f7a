"""The stack machine that a pickle is a program for, as far as its imports depend on it.

It holds texts, numbers and small tuples of these, for the name of an import and the type of an array may be made of
them; of every other value it knows only that it is there.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from archive_tool.pickles import element_types, names
from archive_tool.pickles.blocks import ShortError
from archive_tool.pickles.instructions import (
    INSTRUCTIONS,
    LARGEST_FIXED,
    Instruction,
    StopReadingError,
    decoded,
    has_plain_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from archive_tool.pickles.blocks import Blocks
    from archive_tool.pickles.budget import Budget

#: Values that may be on the stack, and places of the memo; a block may bring so many more.
MAX_DEPTH: Final = 1_000_000
#: An instruction that reads an argument or looks at the stack takes as long as so many plain ones.
_SLOW_STEP: Final = 4


class TooLongError(Exception):
    """The pickle is beyond what we read."""


@dataclass
class Findings:
    """What pickles would import, and what they would do with it.

    Attributes:
        names: each as ``module.name``.
        unknown: an import whose name could not be told.
        changes: something that is imported would be given other attributes or items.
        odd_types: a type of numpy's elements would be made as numpy itself does not write it.
    """

    names: set[str] = field(default_factory=set)
    unknown: bool = False
    changes: bool = False
    odd_types: bool = False


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


class Machine:
    """A reader of pickles, one after the other.

    Args:
        source: of their instructions.
        found: what is found is added to it.
        budget: of instructions.
    """

    def __init__(self, source: Blocks, found: Findings, budget: Budget) -> None:
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
        """Go through one pickle, to its STOP.

        Raises:
            StopReadingError: it has an instruction that cannot be followed.
            ShortError: it ends before its STOP.
            TooLongError: it is beyond what is read.
        """
        self._stack, self._marks, self._memo, self._pending = [], [], {}, set()
        self._protocol = None
        while not self._block():
            self._check_depth()
        self._confirm()

    def _check_depth(self) -> None:
        if max(len(self._stack), len(self._marks), len(self._memo)) > MAX_DEPTH:
            raise TooLongError

    def _block(self) -> bool:
        """Follow the instructions of a block; return whether the last one was STOP.

        Those that large pickles are made of are followed here, some three millions a second; the others in `_step`.
        """
        source, stack, marks, memo, budget = self._source, self._stack, self._marks, self._memo, self._budget
        pushes = _PUSHES
        source.fill(LARGEST_FIXED)
        buffer, position = source.buffer, source.position
        # Before that, an instruction of a fixed length is in the buffer as a whole.
        limit = len(buffer) if source.ended else len(buffer) - LARGEST_FIXED + 1
        left = budget.left
        try:
            while position < limit:
                left -= 1
                if left < 0:
                    raise TooLongError
                op = buffer[position]
                if length := pushes[op]:
                    stack.append(_NOTHING if op == _NONE else None)
                    position += length
                elif op in (_BINPUT, _MEMOIZE):
                    if len(stack) <= (marks[-1] if marks else 0):
                        raise StopReadingError
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
            raise (ShortError if isinstance(error, IndexError) else StopReadingError) from None
        finally:
            budget.left = left
        source.position = position
        if source.ended and position >= len(buffer):
            raise ShortError
        return False

    def _step(self, op: int) -> None:
        step = _STEPS[op]
        if step is None:
            raise StopReadingError
        action, code = step
        action(self, code)
        if self._pending and (self._protocol is not None or code.calls):
            self._confirm()

    def _confirm(self) -> None:
        self._found.unknown = self._found.unknown or None in self._pending
        self._found.names |= {name for name in self._pending if name is not None}
        self._pending.clear()

    def _move(self, code: Instruction, value: _Value) -> None:
        """Take what an instruction takes from the stack, and leave a value there if it leaves any."""
        stack, marks = self._stack, self._marks
        if code.from_mark:
            if not marks:
                raise StopReadingError
            mark = marks.pop()
            self._check_guarded(code, mark)
            del stack[mark:]
        if taken := code.taken:
            # An unpickler stops there, too: nothing below the last mark can be taken.
            if len(stack) - (marks[-1] if marks else 0) < taken:
                raise StopReadingError
            if code.changes and isinstance(stack[-taken], _Import):
                self._found.changes = True
            self._check_guarded(code, len(stack) - taken)
            del stack[-taken:]
        if code.pushes:
            stack.append(value)

    def _check_guarded(self, code: Instruction, start: int) -> None:
        """Report an instruction that puts one of `_GUARDED` into something else."""
        if self._guarded and code.pushes:
            gone = self._stack[start:]
            self._found.odd_types = self._found.odd_types or _DTYPE in gone or _SCALAR in gone

    def _import(self, module: object, attribute: object) -> _Import:
        """Record an import, whatever its name looks like: only the unpickler knows what it finds."""
        told = isinstance(module, str) and isinstance(attribute, str)
        name = names.of(str(module), str(attribute), self._protocol or 0) if told else None
        self._pending.add(name)
        self._guarded = self._guarded or name in _GUARDED
        return _GUARDED.get(name or "", _NAME)

    # ---- what instructions do; `_ACTIONS` says which ---------------------------------------------------------------

    def _push(self, code: Instruction) -> None:
        self._move(code, code.read(self._source, code.size))

    def _pop(self, code: Instruction) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._move(code, None)

    def _dup(self, code: Instruction) -> None:  # noqa: ARG002
        self._stack.append(self._top())

    def _top(self) -> _Value:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise StopReadingError
        return self._stack[-1]

    def _put(self, code: Instruction) -> None:
        self._memo[self._place(code)] = self._top()

    def _get(self, code: Instruction) -> None:
        self._stack.append(self._memo[self._place(code)])

    def _place(self, code: Instruction) -> int:
        """Read the place of the memo that an instruction names."""
        if code.size == pickletools.UP_TO_NEWLINE:
            if (line := self._source.line()) is None:
                raise TooLongError
            return _number(line)
        return int.from_bytes(self._source.take(code.size), "little")

    def _import_lines(self, code: Instruction) -> None:
        lines = self._source.line(), self._source.line()
        found = self._import(*(None if line is None else decoded(line) for line in lines))
        if code.calls and found is not _NAME:
            self._found.odd_types = True
        self._move(code, None if code.calls else found)

    def _import_from_stack(self, code: Instruction) -> None:
        module, attribute = self._stack[-2:] if len(self._stack) > 1 else (None, None)
        self._move(code, None)
        self._stack[-1] = self._import(module, attribute)

    def _extension(self, code: Instruction) -> None:
        self._source.take(code.size)
        self._import(None, None)  # whatever was registered under that number
        self._move(code, _NAME)

    def _collect(self, code: Instruction) -> None:
        """Make a tuple; a long one, and what is deep in one, is of no interest."""
        stack = self._stack
        start = (self._marks[-1] if self._marks else 0) if code.from_mark else max(0, len(stack) - code.taken)
        parts = tuple(map(_part, stack[start:])) if len(stack) - start <= LARGEST_FIXED else None
        self._move(code, parts)

    def _call(self, code: Instruction) -> None:
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

    def _build(self, code: Instruction) -> None:
        target, state = self._stack[-2:] if len(self._stack) > 1 else (None, None)
        if isinstance(target, _ElementType) and not element_types.is_plain(target.letter, state):
            self._found.odd_types = True
        self._move(code, target)

    def _set_protocol(self, code: Instruction) -> None:
        self._protocol = self._source.take(code.size)[0]


def _part(value: _Value) -> object:
    """Return a value as it stands in a tuple: numbers, short texts and None are themselves."""
    if value is _NOTHING:
        return None
    deep = isinstance(value, tuple) and any(isinstance(part, tuple) for part in value)
    long = isinstance(value, str) and len(value) > LARGEST_FIXED
    return _UNTOLD if value is None or deep or long else value


def _number(line: bytes) -> int:
    try:
        return int(line.split(b"\0")[0])  # to C's unpickler that is the end of a number
    except ValueError as error:
        raise StopReadingError from error


_ACTIONS: Final = {
    **dict.fromkeys(("PUT", "LONG_BINPUT"), Machine._put),
    **dict.fromkeys(("GET", "LONG_BINGET"), Machine._get),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), Machine._extension),
    **dict.fromkeys(("GLOBAL", "INST"), Machine._import_lines),
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), Machine._collect),
    "BUILD": Machine._build,
    "DUP": Machine._dup,
    "POP": Machine._pop,
    "PROTO": Machine._set_protocol,
    "REDUCE": Machine._call,
    "STACK_GLOBAL": Machine._import_from_stack,
}
_MARK_OP, _STOP, _MEMOIZE, _BINPUT = (INSTRUCTIONS[name].code for name in ("MARK", "STOP", "MEMOIZE", "BINPUT"))
_BINGET, _BININT1, _NONE = (INSTRUCTIONS[name].code for name in ("BINGET", "BININT1", "NONE"))


def _steps() -> list[tuple[Callable[[Machine, Instruction], None], Instruction] | None]:
    """Return, by the code of an instruction, what it does."""
    known = {code.code: (_ACTIONS.get(name, Machine._push), code) for name, code in INSTRUCTIONS.items()}
    return [known.get(number) for number in range(256)]


def _plain_pushes() -> bytes:
    """Return, by the code of an instruction, its length if all it does is to push a value of no interest."""
    lengths = bytearray(256)
    for name, code in INSTRUCTIONS.items():
        if has_plain_value(code) and name not in _ACTIONS and name not in ("MARK", "BINGET"):
            lengths[code.code] = 1 + code.size
    return bytes(lengths)


_STEPS: Final = _steps()
_PUSHES: Final = _plain_pushes()
