"""Which names a pickle would import, read without unpickling it.

A pickle is a program for a stack machine (the standard library's `pickletools` lists its instructions). It runs code
through what it imports only, so a pickle is data if it imports nothing but constructors of data. The reading is in
constant memory, for a checkpoint of gigabytes may be one pickle, and it simulates the stack, for the names of an
import may have been pushed long before.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass, field
from typing import IO, Final, NamedTuple

#: More instructions have no archive's pickles together: 100,000 tensors take three million.
MAX_INSTRUCTIONS: Final = 20_000_000
#: Values that may be on the stack, and places of the memo.
MAX_DEPTH: Final = 2_000_000
#: Pickles may follow each other in a file; old checkpoints of torch are five.
MAX_PICKLES: Final = 1000

_LONGEST_TEXT: Final = 1024
_LINE: Final = 1 << 16
_LONGEST: Final = 1 << 62  # of what an unpickler could hold
_LENGTHS: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
_BYTE_TEXTS: Final = frozenset({"BINSTRING", "SHORT_BINSTRING"})
_TEXTS: Final = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}) | _BYTE_TEXTS
_TEXT_LINES: Final = frozenset({"UNICODE", "STRING"})
_PUTS: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})
_CALLS: Final = frozenset({"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
_EXTENSIONS: Final = frozenset({"EXT1", "EXT2", "EXT4"})
#: Names of Python 2, which pickles of protocol 0 to 2 use to this day.
PYTHON_2: Final = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}

# Everything that torch.load(weights_only=True) accepts, as far as it is a list (torch/_weights_only_unpickler.py) ...
_TORCH: Final = frozenset(
    {
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.Tensor",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_nested_tensor",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_wrapper_subclass",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.per_channel_affine",
        "torch.per_channel_affine_float_qparams",
        "torch.per_channel_symmetric",
        "torch.per_tensor_affine",
        "torch.per_tensor_symmetric",
        "torch.serialization._get_layout",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
    }
)
# ... and the numbers and containers beside it that a training loop saves: they run nothing either.
_OTHERS: Final = frozenset(
    {
        "builtins.bytes",
        "builtins.dict",
        "builtins.float",
        "builtins.frozenset",
        "builtins.int",
        "builtins.list",
        "builtins.long",
        "builtins.object",
        "builtins.range",
        "builtins.slice",
        "builtins.str",
        "builtins.tuple",
        "builtins.unicode",
        "builtins.xrange",
        "copyreg._reconstructor",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "numpy.dtype",
        "numpy.ndarray",
    }
)
_DTYPE: Final = re.compile(
    r"bool|bfloat16|(float|b?complex|u?int|qu?int|bits)[0-9]+(x[0-9]+)?(_e[0-9]+m[0-9]+[a-z]*(_x[0-9]+)?)?"
)
# TorchScript's names are those of its own language; its reader, in C++, knows no Python.
_TORCHSCRIPT: Final = ("__torch__.", "torch.jit._pickle.")


class Budget:
    """How many instructions may still be read, in all the pickles that share it."""

    def __init__(self) -> None:
        self.left = MAX_INSTRUCTIONS


@dataclass
class Imports:
    """What a pickle, or several in a row, would import.

    Attributes:
        names: each as ``module.name``.
        unknown: an import whose name could not be told.
        too_long: reading was given up.
        complete: at least one pickle was read to its end.
    """

    names: set[str] = field(default_factory=set)
    unknown: bool = False
    too_long: bool = False
    complete: bool = False


def is_data(name: str) -> bool:
    """Whether importing a name, ``module.name``, and calling it with whatever makes data and runs nothing else."""
    if name in _TORCH or name in _OTHERS or name.startswith(_TORCHSCRIPT):
        return True
    module, _, attribute = name.rpartition(".")
    if module in ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse"):
        if attribute.endswith(("Storage", "Tensor")):
            return True
        return module == "torch" and _DTYPE.fullmatch(attribute) is not None
    return False


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
        stream: seekable, or it is read through.
        budget: of instructions; by default one for this call.

    Raises:
        OSError, ArchiveError: the stream cannot be read.
    """
    found = Imports()
    machine = _Machine(stream, found, budget or Budget())
    try:
        for _ in range(MAX_PICKLES):
            machine.run()
        found.too_long = True
    except _StopReadingError:
        pass
    except _TooLongError:
        found.too_long = True
    return found


class _Mark:
    pass


_MARK: Final = _Mark()
_Value = str | _Mark | None  # a text, a mark, or anything else


class _Code(NamedTuple):
    """An instruction: what it reads, and what it does to the stack."""

    name: str
    size: int | None  # of its argument, or how that is told; None if it has none
    from_mark: bool  # takes everything down to the mark
    taken: int  # and so many values
    results: tuple[_Value, ...]


def _code(info: pickletools.OpcodeInfo) -> _Code:
    before, after = info.stack_before, info.stack_after
    from_mark = pickletools.markobject in before
    # What stands before the mark in the table is taken too, such as the list of APPENDS.
    taken = before.index(pickletools.markobject) if from_mark else len(before)
    results = tuple(_MARK if result is pickletools.markobject else None for result in after)
    return _Code(info.name, info.arg.n if info.arg else None, from_mark, taken, results)


_CODES: Final = {info.code.encode("latin-1"): _code(info) for info in pickletools.opcodes}


class _Machine:
    def __init__(self, stream: IO[bytes], found: Imports, budget: Budget) -> None:
        self._stream = stream
        self._found = found
        self._budget = budget
        self._stack: list[_Value] = []
        self._memo: dict[int, str | None] = {}
        self._pending: set[str] = set()
        self._with_protocol = False

    def run(self) -> None:
        """Go through one pickle, to its STOP."""
        self._stack, self._memo, self._pending = [], {}, set()
        name = ""
        while name != "STOP":
            self._budget.left -= 1
            if self._budget.left < 0 or len(self._stack) > MAX_DEPTH or len(self._memo) > MAX_DEPTH:
                raise _TooLongError
            code = _CODES.get(self._stream.read(1))
            if code is None:
                raise _StopReadingError
            name = code.name
            self._step(code, None if code.size is None else self._argument(name, code.size))
        self._confirm()
        self._found.complete = True

    def _step(self, code: _Code, argument: str | None) -> None:
        name = code.name
        if name in ("GLOBAL", "INST"):
            module, _, attribute = (argument or "").partition("\n")
            self._import(module, attribute)
        elif name == "STACK_GLOBAL":
            self._import_from_stack()
        elif name in _EXTENSIONS:
            # Nobody registers any, and no other file begins with a pickle's first instruction.
            self._found.unknown = self._found.unknown or self._with_protocol
        elif name == "PROTO":
            self._with_protocol = True
        elif name == "MEMOIZE" or name in _PUTS:
            self._put(argument)
        elif name == "DUP":
            self._stack.append(self._stack[-1] if self._stack else None)
        if name != "MEMOIZE" and name not in _PUTS and name != "DUP":
            self._move(code, argument)
        if self._with_protocol or name in _CALLS:
            self._confirm()

    def _confirm(self) -> None:
        self._found.names |= self._pending
        self._pending.clear()

    def _import_from_stack(self) -> None:
        if len(self._stack) < 2:
            raise _StopReadingError
        module, attribute = self._stack[-2:]
        if isinstance(module, str) and isinstance(attribute, str):
            self._import(module, attribute)
        else:
            self._found.unknown = True

    def _put(self, argument: str | None) -> None:
        if not self._stack:
            raise _StopReadingError
        value = self._stack[-1]
        self._memo[len(self._memo) if argument is None else _number(argument)] = (
            value if isinstance(value, str) else None
        )

    def _move(self, code: _Code, argument: str | None) -> None:
        """Take what an instruction takes from the stack and put there what it puts."""
        if code.from_mark:
            self._to_mark()
        if code.taken:
            if code.taken > len(self._stack):
                raise _StopReadingError
            del self._stack[-code.taken :]
        if code.name in _GETS:
            key = _number(argument)
            if key not in self._memo:
                raise _StopReadingError
            self._stack.append(self._memo[key])
        elif code.name in _TEXTS or code.name in _TEXT_LINES:
            self._stack.append(argument)
        else:
            self._stack += code.results

    def _to_mark(self) -> None:
        while self._stack:
            if self._stack.pop() is _MARK:
                return
        raise _StopReadingError

    def _import(self, module: str, attribute: str) -> None:
        # A file that is no pickle at all may look like an import; no such module could be found.
        if all(part.isidentifier() for part in module.split(".")):
            self._pending.add(f"{PYTHON_2.get(module, module)}.{attribute}")

    def _argument(self, name: str, size: int) -> str | None:
        """Read an instruction's argument; given are texts, numbers that name a place of the memo, and import lines."""
        if size == pickletools.UP_TO_NEWLINE:
            if name in ("GLOBAL", "INST"):
                return f"{_text(self._line())}\n{_text(self._line())}"
            line = self._line()
            if name in _TEXT_LINES:
                return _unquoted(name, line)
            return _text(line) if name in ("GET", "PUT") else None
        if size in _LENGTHS:
            width, signed = _LENGTHS[size]
            length = int.from_bytes(self._exactly(width), "little", signed=signed)
            if not 0 <= length < _LONGEST:
                raise _StopReadingError
            if name not in _TEXTS or length > _LONGEST_TEXT:
                self._skip(length)
                return None
            data = self._exactly(length)
            # How the texts of Python 2 are read is told to the unpickler; what is not ASCII is no name of a module.
            return _text(data) if name not in _BYTE_TEXTS else data.decode("ascii") if data.isascii() else None
        data = self._exactly(size)
        return str(int.from_bytes(data, "little")) if name in _GETS or name in _PUTS else None

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise _StopReadingError
        return data

    def _skip(self, count: int) -> None:
        """Go over bytes that are no instructions; what is missing at the end is found by the next read."""
        if self._stream.seekable():
            self._stream.seek(count, 1)
            return
        while count:
            count -= len(self._exactly(min(count, _LINE)))

    def _line(self) -> bytes:
        """Read to the end of a line; of a long one only the end of it is kept, which is then no name."""
        line = self._stream.readline(_LINE)
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_LINE)
        if not line:
            raise _StopReadingError
        return line[:-1]


def _text(data: bytes) -> str:
    # A module's name that is not UTF-8 stops an unpickler. Any other text is compared with nothing.
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise _StopReadingError from error


def _unquoted(name: str, line: bytes) -> str | None:
    """The text of UNICODE or STRING as far as it could be a name: without escapes."""
    if name == "STRING":
        line = line.strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
            raise _StopReadingError
        line = line[1:-1]
    return None if b"\\" in line or len(line) > _LONGEST_TEXT or not line.isascii() else line.decode("ascii")


def _number(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError as error:
        raise _StopReadingError from error
