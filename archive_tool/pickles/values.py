"""Interpreting a pickle symbolically: its opcodes are followed, its calls are recorded and not made.

A pickle is a program that may call anything. Here its stack machine runs with symbols in place of functions and
objects, which is enough to find the tensors of a checkpoint. The cost of a hostile pickle is bounded: by its bytes, by
the number of its opcodes, and because each opcode makes no more than its own arguments.

`imports` decides what is safe. This reader cannot do that: a scan must also read pickles that do not fit into memory,
so it keeps no values, and in a damaged pickle it must find what an unpickler runs before it comes to the damage.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from dataclasses import dataclass, field
from typing import IO, Any, Final

#: A checkpoint of ten thousand tensors has some 350,000 opcodes, which take two or three seconds to follow.
MAX_OPCODES: Final = 2_000_000

_MARK: Final = object()


class PickleError(ValueError):
    """A pickle that cannot be followed: damaged, too long, or not one."""


@dataclass(eq=False)
class Node:
    """An object that a pickle would make by a call.

    Attributes:
        function: that is called, as ``module.name``; "?" if the pickle computes that, too.
        args: of the call.
        items: set on the result by keys.
        values: appended or added to the result.
        state: from which the result restores itself.
    """

    function: str
    args: tuple[Any, ...] = ()
    items: dict[Any, Any] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)
    state: Any = None


@dataclass(frozen=True, eq=False)
class Global:
    """A function or class that a pickle names, as ``module.name``."""

    name: str


@dataclass(frozen=True, eq=False)
class External:
    """Data stored elsewhere, by the id that the pickle gives: for torch, the numbers of a tensor."""

    key: Any


@dataclass(frozen=True, eq=False)
class Computed:
    """A key, or the arguments of a call, that is not a plain value; hashing nested tuples can take for ever."""

    value: Any


@dataclass(frozen=True)
class Followed:
    """The result of following a pickle.

    Attributes:
        value: of the pickle; plain values as they are, the rest as `Node`, `Global` and `External`.
        names: all functions and classes that it names, sorted.
    """

    value: Any
    names: tuple[str, ...]


def follow(stream: IO[bytes], *, max_opcodes: int = MAX_OPCODES) -> Followed:
    """Follow one pickle from the stream's position; the stream is then at its end.

    Args:
        stream: of bytes in memory, or bounded in another way.
        max_opcodes: more are an error.

    Raises:
        PickleError: it is not a pickle, is damaged, or has too many opcodes.
    """
    machine = Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence", in a damaged text
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count >= max_opcodes:
                    raise PickleError(f"it has more than {max_opcodes} opcodes")
                machine.step(opcode.name, argument)
        return Followed(machine.stack.pop(), tuple(sorted(machine.names)))
    # What damaged bytes raise in pickletools, and what an opcode raises that finds nothing on the stack.
    except (ValueError, IndexError, LookupError, struct.error, OverflowError, TypeError, MemoryError) as error:
        if isinstance(error, PickleError):
            raise
        raise PickleError(f"it is damaged: {error or type(error).__name__}") from error


_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Final = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})
_NOTHING: Final = frozenset({"PROTO", "FRAME", "STOP", "READONLY_BUFFER"})


class Machine:
    """The stack machine: it runs opcode by opcode with `step`, and has symbols on its `stack`."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.names: set[str] = set()
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one opcode; `follow` lists what damaged ones raise."""
        if name in _PUT:
            self._memo[argument] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self._memo[argument])
        elif method := _STEPS.get(name):
            method(self, argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        elif name not in _NOTHING:
            self.stack.append(argument)  # a number or a text

    def _above_mark(self) -> list[Any]:
        """Pop everything above the mark, and the mark."""
        index = len(self.stack) - 1
        while self.stack[index] is not _MARK:
            if index == 0:
                raise PickleError("it is damaged: there is no mark")
            index -= 1
        taken = self.stack[index + 1 :]
        del self.stack[index:]
        return taken

    def _tuple(self, count: int) -> None:
        taken = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(taken)

    def _push_global(self, name: str) -> None:
        self.names.add(name)
        self.stack.append(Global(name))

    def _call(self, function: Any, args: Any) -> None:
        name = function.name if isinstance(function, Global) else "?"
        self.stack.append(Node(name, args if isinstance(args, tuple) else (Computed(args),)))

    def _set(self, target: Any, pairs: list[Any]) -> None:
        items = target.items if isinstance(target, Node) else target
        if isinstance(items, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=False):
                items[key if isinstance(key, (str, int, bytes)) else Computed(key)] = value

    def _append(self, target: Any, values: list[Any]) -> None:
        found = target.values if isinstance(target, Node) else target
        if isinstance(found, list):
            found.extend(values)

    # ---- opcodes ---------------------------------------------------------------------------------------------------

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._above_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _tuple_of(self, _: Any) -> None:
        self.stack.append(tuple(self._above_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._above_mark())

    def _dict(self, _: Any) -> None:
        pairs = self._above_mark()
        self.stack.append({})
        self._set(self.stack[-1], pairs)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def _setitems(self, _: Any) -> None:
        pairs = self._above_mark()
        self._set(self.stack[-1], pairs)

    def _append_one(self, _: Any) -> None:
        value = self.stack.pop()
        self._append(self.stack[-1], [value])

    def _appends(self, _: Any) -> None:
        values = self._above_mark()
        self._append(self.stack[-1], values)

    def _global(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")  # pickletools joins the two lines like this
        self._push_global(f"{module}.{name}")

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        known = isinstance(name, str) and isinstance(module, str)
        self._push_global(f"{module}.{name}" if known else "?")

    def _extension(self, argument: Any) -> None:
        self._push_global(f"copyreg.extension_{argument}")

    def _inst(self, argument: Any) -> None:
        args = tuple(self._above_mark())
        self._global(argument)
        self._call(self.stack.pop(), args)

    def _obj(self, _: Any) -> None:
        function, *args = self._above_mark()
        self._call(function, tuple(args))

    def _reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self._call(function, args)

    def _newobj_ex(self, _: Any) -> None:
        _named, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._call(function, args)

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        self._restore(self.stack[-1], state)

    def _restore(self, target: Any, state: Any) -> None:
        if isinstance(target, Node):
            target.state = state

    def _persid(self, argument: Any) -> None:
        self.stack.append(External(argument))

    def _binpersid(self, _: Any) -> None:
        self.stack.append(External(self.stack.pop()))

    def _next_buffer(self, _: Any) -> None:
        self.stack.append(External(None))


_STEPS: Final = {
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._pop_mark,
    "DUP": Machine._dup,
    "MEMOIZE": Machine._memoize,
    "TUPLE": Machine._tuple_of,
    "LIST": Machine._list,
    "DICT": Machine._dict,
    "FROZENSET": Machine._list,
    "SETITEM": Machine._setitem,
    "SETITEMS": Machine._setitems,
    "APPEND": Machine._append_one,
    "APPENDS": Machine._appends,
    "ADDITEMS": Machine._appends,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "EXT1": Machine._extension,
    "EXT2": Machine._extension,
    "EXT4": Machine._extension,
    "INST": Machine._inst,
    "OBJ": Machine._obj,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._newobj_ex,
    "BUILD": Machine._build,
    "PERSID": Machine._persid,
    "BINPERSID": Machine._binpersid,
    "NEXT_BUFFER": Machine._next_buffer,
}
