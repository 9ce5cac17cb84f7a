"""Follows a file of joblib: a pickle between whose instructions the numbers of arrays stand as they are.

Where such numbers begin and end is told by what the pickle has said of the array before, so its values are followed,
not only its names. Whatever else than joblib's own way of writing an array is found makes an error.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import warnings
from typing import IO, TYPE_CHECKING, Any, Final

from archive_tool.pickles.values import Machine, Node, PickleError

if TYPE_CHECKING:
    from archive_tool.pickles.imports import Budget

#: What stands in the pickle for an array.
WRAPPER: Final = "joblib.numpy_pickle.NumpyArrayWrapper"
#: Following an instruction with its values takes as long as so many of `imports`.
_COST: Final = 40
_LONGEST: Final = 64 << 20
_NUMBERS: Final = re.compile(r"[biufc]([0-9]{1,2})")
#: Nothing that joblib itself names: these could give objects another state than the pickle shows.
_FOREIGN: Final = ("torch.", "copyreg.")


class _Short:
    """A stream as `pickletools` wants it, that gives no more at once than fits into memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell = stream.tell

    def read(self, count: int) -> bytes:
        if count > _LONGEST:
            raise PickleError("a value is too long")
        return self._stream.read(count)

    def readline(self) -> bytes:
        return self._stream.readline(_LONGEST)


def names(stream: IO[bytes], size: int, budget: Budget) -> set[str]:
    """What such a file imports; it begins at the stream's position and takes all that follows there.

    Args:
        stream: seekable.
        size: of the file.
        budget: of instructions.

    Raises:
        PickleError: it cannot be followed, or not to the end of the file.
    """
    found: set[str] = set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence", in a damaged text
            _follow(stream, size, budget, found)
    # What damaged bytes raise in pickletools, and what an instruction raises that finds nothing on the stack.
    except (ValueError, LookupError, struct.error, OverflowError, TypeError, AttributeError, MemoryError) as error:
        raise error if isinstance(error, PickleError) else PickleError(f"it is damaged: {error}") from error
    if stream.tell() != size:
        raise PickleError("other bytes follow it")
    if any(name.startswith(_FOREIGN) for name in found):
        raise PickleError("it names what joblib does not")
    return found


def _follow(stream: IO[bytes], size: int, budget: Budget, found: set[str]) -> None:
    machine = Machine()
    frame_end = 0
    for opcode, argument, _ in pickletools.genops(_Short(stream)):  # type: ignore[arg-type]
        budget.left -= _COST
        if budget.left < 0:
            raise PickleError("it is too long")
        machine.step(opcode.name, argument)
        found |= machine.names
        machine.names.clear()
        if opcode.name == "FRAME":
            frame_end = stream.tell() + int(argument or 0)
        top = machine.stack[-1] if machine.stack else None
        if opcode.name == "BUILD" and isinstance(top, Node) and top.function == WRAPPER:
            # joblib reads the numbers from the file, which its unpickler has read up to the end of the frame.
            if stream.tell() < frame_end:
                raise PickleError("an array begins within a frame")
            machine.stack[-1] = Node("numpy.ndarray")
            _skip_array(stream, top.state, size)


def _skip_array(stream: IO[bytes], state: Any, size: int) -> None:
    """Go to the end of an array's numbers."""
    shape, described = state["shape"], state["dtype"]
    numbers = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
    if not numbers or not isinstance(described, Node) or described.function != "numpy.dtype":
        raise PickleError("an array is not described as joblib does")
    kind = described.args[0]
    version, _, *rest = described.state
    plain = _NUMBERS.fullmatch(kind)
    # Any other state could make another type of it, such as one of objects, which are pickled in place of numbers.
    if version != 3 or plain is None or rest != [None, None, None, -1, -1, 0]:
        raise PickleError(f"an array has elements of the type {kind!r}")
    if state.get("numpy_array_alignment_bytes") is not None:
        stream.seek(stream.read(1)[0], 1)
    end = stream.tell() + int(plain[1]) * math.prod(shape)
    if end > size:
        raise PickleError("an array is cut short")
    stream.seek(end)
