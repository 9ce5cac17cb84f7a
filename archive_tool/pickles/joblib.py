"""Following a file of joblib: a pickle with the raw numbers of arrays between its instructions.

The position and size of these numbers follow from the pickled description of the array, so its values are followed, not
only its names. Anything but joblib's own way of writing an array is an error.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import warnings
from typing import IO, TYPE_CHECKING, Any, Final

from archive_tool.pickles import element_types
from archive_tool.pickles.values import Global, Machine, Node, PickleError

if TYPE_CHECKING:
    from archive_tool.pickles.budget import Budget

#: The class that stands for an array in the pickle.
WRAPPER: Final = "joblib.numpy_pickle.NumpyArrayWrapper"
#: An instruction with its values takes as long as this many of `imports`.
_COST: Final = 40
_LONGEST: Final = 64 << 20
_NUMBERS: Final = re.compile(r"[biufc]([0-9]{1,2})")
#: Packages that joblib itself never names: these could give objects another state than the pickle shows.
_FOREIGN: Final = ("torch.", "copyreg.")


_TYPE: Final = "numpy.dtype"
_SCALARS: Final = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
_MOST_SIDES: Final = 64  # numpy's own limit
#: The state that joblib gives to a wrapper. Files from before 1.2 lack the alignment.
_ATTRIBUTES: Final = frozenset({"allow_mmap", "dtype", "order", "shape", "subclass"})
_ALIGNMENT: Final = "numpy_array_alignment_bytes"


class _Machine(Machine):
    """A machine that follows only known calls; their values tell how many bytes are not instructions."""

    def _call(self, function: Any, args: Any) -> None:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise PickleError("it calls what it computes")
        name = function.name
        if name == _TYPE and element_types.kind(args) is None:
            raise PickleError("it makes a type in another way than numpy")
        if name in _SCALARS and (not args or not _is_type(args[0]) or element_types.kind(args[0].args) == "O"):
            raise PickleError("it makes a number in another way than numpy")
        if name == WRAPPER and args:
            raise PickleError("an array is not described as joblib does")
        super()._call(function, args)

    def _restore(self, target: Any, state: Any) -> None:
        # An object with two states would have parts of each.
        if not isinstance(target, Node) or target.state is not None or state is None:
            raise PickleError("it gives a state to what has none, or has one")
        if _is_type(target) and not element_types.is_plain(element_types.kind(target.args) or "", state):
            raise PickleError("it gives a type another state than numpy does")
        super()._restore(target, state)

    def _set(self, target: Any, pairs: list[Any]) -> None:
        if not isinstance(target, (Node, dict)):
            raise PickleError("it sets items of what has none")
        super()._set(target, pairs)

    def _append(self, target: Any, values: list[Any]) -> None:
        if not isinstance(target, (Node, list)):
            raise PickleError("it appends to what is no list")
        super()._append(target, values)


def _is_type(value: Any) -> bool:
    return isinstance(value, Node) and value.function == _TYPE


class _Short:
    """A stream for `pickletools` that returns at most as much at once as fits into memory."""

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
    """Return the imports of such a file, from the stream's position to its end.

    Args:
        stream: seekable.
        size: of the file.
        budget: of instructions.

    Raises:
        PickleError: it cannot be followed to the end of the file.
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
    machine = _Machine()
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
    """Skip an array's numbers."""
    if not isinstance(state, dict) or state.keys() - {_ALIGNMENT} != _ATTRIBUTES:
        raise PickleError("an array is not described as joblib does")
    shape, described = state["shape"], state["dtype"]
    numbers = isinstance(shape, tuple) and len(shape) <= _MOST_SIDES
    numbers = numbers and all(type(side) is int and 0 <= side < 1 << 62 for side in shape)
    if not numbers or not isinstance(described, Node) or described.function != _TYPE:
        raise PickleError("an array is not described as joblib does")
    kind = described.args[0]
    plain = _NUMBERS.fullmatch(kind)
    # Objects are pickled in place of numbers.
    if plain is None or described.state is None:
        raise PickleError(f"an array has elements of the type {kind!r}")
    alignment = state.get(_ALIGNMENT)
    if alignment is not None and type(alignment) is not int:
        raise PickleError("an array is not described as joblib does")
    if alignment is not None:
        stream.seek(stream.read(1)[0], 1)
    end = stream.tell() + int(plain[1]) * math.prod(shape)
    if end > size:
        raise PickleError("an array is cut short")
    stream.seek(end)
