"""Whether a state dict can fit the class of a model file, as far as that shows without running any code.

Looked at are layers of torch.nn that a class plainly creates, once and unconditionally, in its ``__init__``. Whatever
could be otherwise counts as unknown, and nothing is said of it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Shape = tuple[int, ...]

_MODULE: Final = "torch.nn.Module"
_SHOWN: Final = 3
_CONVOLUTIONS: Final = {"Conv1d": 1, "Conv2d": 2, "Conv3d": 3}
# Their tensors are there for certain, whatever the arguments are.
_NORMS: Final = frozenset({"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"})
# Arguments that change neither names nor shapes.
_NEUTRAL: Final = frozenset({"device", "dtype", "padding_mode", "padding", "stride", "dilation", "eps", "momentum"})
_WRAPPERS: Final = {
    "module": "torch.nn.DataParallel or DistributedDataParallel; save model.module.state_dict()",
    "_orig_mod": "torch.compile; save the state dict of the model that was compiled",
}


@dataclass
class Expected:
    """What a model class surely has.

    Attributes:
        name: of the class.
        line: where it begins.
        tensors: keys of its state dict, each with the shape if that is known.
        attributes: names that the class gives to itself anywhere.
        complete: whether it can have no others.
    """

    name: str
    line: int
    tensors: dict[str, Shape | None] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    complete: bool = True


def problems(tree: ast.Module, keys: Mapping[str, Shape]) -> Iterator[tuple[int, str, str | None]]:
    """Yield line, message and hint of what surely does not fit.

    Args:
        tree: of the model file.
        keys: of the state dict, with the shapes.
    """
    expected = expect(tree)
    if expected is None or not expected.tensors or not keys:
        return
    keys = _without_prefix(expected, keys)
    missing = [key for key in expected.tensors if key not in keys]
    if len(missing) == len(expected.tensors):
        yield expected.line, f"none of the tensors of {expected.name} is in the state dict", _explain(expected, keys)
        return
    if missing:
        yield expected.line, f"the state dict lacks {_some(missing)} of {expected.name}", None
    wrong = [
        f"{key} is {list(keys[key])} there and {list(shape)} in the class"
        for key, shape in expected.tensors.items()
        if shape is not None and key in keys and keys[key] != shape
    ]
    if wrong:
        yield expected.line, f"the state dict does not fit {expected.name}: {_some(wrong, '; ')}", None
    unknown = [key for key in keys if key.split(".")[0] not in expected.attributes]
    if unknown and expected.complete:
        yield expected.line, f"the state dict has {_some(unknown)}, which {expected.name} does not have", None


def _without_prefix(expected: Expected, keys: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Leave out a prefix that all keys have and the class does not: the SDK loads them, too.

    A state dict within a dictionary reads the same here, and is not loaded; those have a name of their own.
    """
    inner = keys
    if all(key.partition(".")[0].endswith("state_dict") for key in keys):
        return keys
    while len({key.split(".")[0] for key in inner}) == 1 and all("." in key for key in inner):
        inner = {key.partition(".")[2]: shape for key, shape in inner.items()}
        if inner.keys() & expected.tensors.keys():
            return inner if not keys.keys() & expected.tensors.keys() else keys
    return keys


def _some(items: list[str], separator: str = ", ") -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more


def _explain(expected: Expected, keys: Mapping[str, Shape]) -> str | None:
    first = {key.split(".")[0] for key in keys}
    for prefix in sorted(first):
        inner = {key[len(prefix) + 1 :] for key in keys if key.startswith(f"{prefix}.")}
        if inner & expected.tensors.keys():
            origin = _WRAPPERS.get(prefix)
            return f"its keys begin with {prefix!r}" + (
                f", the mark of {origin}" if origin else f": save that part alone, checkpoint[{prefix!r}]"
            )
    return "are these the weights of another model?"


def module_classes(tree: ast.Module) -> list[ast.ClassDef]:
    """Find the classes that a file surely defines as subclasses of ``torch.nn.Module``."""
    names = _imported(tree)
    return [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(_dotted(base, names) == _MODULE for base in node.bases)
    ]


def expect(tree: ast.Module) -> Expected | None:
    """Find the model's class and what it surely has; None if that cannot be told."""
    names = _imported(tree)
    classes = module_classes(tree)
    if len(classes) != 1:
        return None
    (node,) = classes
    # A base of its own, a metaclass or a decorator may add anything.
    if len(node.bases) != 1 or node.keywords or node.decorator_list:
        return None
    inits = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    if len(inits) != 1 or inits[0].decorator_list or any(isinstance(part, ast.Return) for part in ast.walk(inits[0])):
        return None
    found = Expected(node.name, node.lineno)
    changed = _Uses(found)
    changed.visit(node)
    for statement in inits[0].body:
        target = _own_attribute(statement)
        if target is None or not isinstance(statement, ast.Assign):
            continue
        if changed.count.get(target) == 1 and target not in changed.handed_on and not changed.anything:
            found.tensors.update(_tensors(target, statement.value, names))
    return found


class _Uses(ast.NodeVisitor):
    """Finds what a class does with its own attributes.

    Attributes:
        count: how often each is assigned or deleted.
        handed_on: those that a function gets, which may change them: ``weight_norm(self.fc)``.
        anything: whether a function gets the whole object, or attributes are made by computed names.
    """

    def __init__(self, expected: Expected) -> None:
        self.count: dict[str, int] = {}
        self.handed_on: set[str] = set()
        self.anything = False
        self._expected = expected

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if _is_self(node.value):
            self._expected.attributes.add(node.attr)
            if isinstance(node.ctx, (ast.Store, ast.Del)):
                self.count[node.attr] = self.count.get(node.attr, 0) + 1
            if node.attr == "__dict__":
                self.anything = True
                self._expected.complete = False
        elif isinstance(node.ctx, (ast.Store, ast.Del)):
            # self.fc.weight = ..., or layer.bias = None for some layer that a loop finds
            if isinstance(node.value, ast.Attribute) and _is_self(node.value.value):
                self.handed_on.add(node.value.attr)
            else:
                self.anything = True
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, (ast.Store, ast.Del)) and isinstance(node.value, ast.Attribute):
            self.handed_on.add(node.value.attr)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Attribute) and _is_self(node.value.value):
            self.handed_on.add(node.value.attr)  # it has another name now
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        for argument in arguments:
            if _is_self(argument) and name not in ("super", "isinstance", "len"):
                self.anything = True
                self._expected.complete = False
            if isinstance(argument, ast.Attribute) and _is_self(argument.value):
                self.handed_on.add(argument.attr)
        if name in ("setattr", "add_module", "register_module", "register_buffer", "register_parameter", "vars"):
            self._registered(node)
        self.generic_visit(node)

    def _registered(self, node: ast.Call) -> None:
        literal = node.args[0] if node.args else None
        if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
            self._expected.attributes.add(literal.value.split(".")[0])
            self.count[literal.value] = self.count.get(literal.value, 0) + 1
        else:
            self._expected.complete = False


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _own_attribute(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Attribute) and _is_self(target.value):
            return target.attr
    return None


def _imported(tree: ast.Module) -> dict[str, str]:
    """Tell what the names mean that a module imports at its top level."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for part in ast.walk(tree):
        # A name that is also something else, anywhere in the file, is not to be trusted.
        if isinstance(part, ast.Name) and isinstance(part.ctx, (ast.Store, ast.Del)):
            found.pop(part.id, None)
        elif isinstance(part, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.pop(part.name, None)
        elif isinstance(part, ast.arg):
            found.pop(part.arg, None)
    return found


def _dotted(node: ast.AST, names: Mapping[str, str]) -> str:
    """Return the full name of ``nn.Linear``; empty if it is something else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return ""
    return ".".join([names[node.id], *reversed(parts)])


def _tensors(prefix: str, value: ast.AST, names: Mapping[str, str]) -> dict[str, Shape | None]:
    """Return the tensors that a layer surely has, by their keys."""
    if not isinstance(value, ast.Call):
        return {}
    package, _, kind = _dotted(value.func, names).rpartition(".")
    if package != "torch.nn":
        return {}
    arguments = _Arguments(value)
    if kind == "Sequential":
        return _sequence(prefix, value, names)
    if arguments.unclear:
        return {}
    found: dict[str, Shape | None] = {}
    if kind == "Linear":
        found = _linear(arguments)
    elif kind in _CONVOLUTIONS:
        found = _convolution(arguments, _CONVOLUTIONS[kind])
    elif kind in _NORMS and arguments.only("num_features"):
        size = arguments.shape(("num_features", 0))
        found = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), size)
    elif kind == "Embedding":
        found = {"weight": arguments.shape(("num_embeddings", 0), ("embedding_dim", 1))}
    return {f"{prefix}.{key}": shape for key, shape in found.items()}


def _sequence(prefix: str, call: ast.Call, names: Mapping[str, str]) -> dict[str, Shape | None]:
    if call.keywords or any(isinstance(argument, ast.Starred) for argument in call.args):
        return {}
    found: dict[str, Shape | None] = {}
    for index, argument in enumerate(call.args):
        found |= _tensors(f"{prefix}.{index}", argument, names)
    return found


def _linear(arguments: _Arguments) -> dict[str, Shape | None]:
    found = {"weight": arguments.shape(("out_features", 1), ("in_features", 0))}
    if arguments.is_true("bias", 2):
        found["bias"] = arguments.shape(("out_features", 1))
    return found


def _convolution(arguments: _Arguments, dimensions: int) -> dict[str, Shape | None]:
    shape = arguments.shape(("out_channels", 1), ("in_channels", 0))
    kernel = arguments.sizes("kernel_size", 2, dimensions)
    groups = arguments.number("groups", 6, 1)
    weight = (shape[0], shape[1] // groups, *kernel) if shape and kernel and groups else None
    found: dict[str, Shape | None] = {"weight": weight}
    if arguments.is_true("bias", 7):
        found["bias"] = arguments.shape(("out_channels", 1))
    return found


def _integer(node: ast.AST) -> int | None:
    """Read a number that is written down, also as a product such as ``64 * 12 * 12``."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _integer(node.left), _integer(node.right)
        product = left * right if left is not None and right is not None else None
        return product if product is not None and abs(product) < 1 << 63 else None
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class _Arguments:
    """The arguments of a call, as far as they are written down as plain numbers."""

    def __init__(self, call: ast.Call) -> None:
        self._given = call.args
        self._named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        starred = any(isinstance(argument, ast.Starred) for argument in call.args)
        self.unclear = starred or len(self._named) != len(call.keywords)

    def _find(self, name: str, place: int) -> ast.AST | None:
        if name in self._named:
            return self._named[name]
        return self._given[place] if place < len(self._given) else None

    def number(self, name: str, place: int, default: int | None = None) -> int | None:
        node = self._find(name, place)
        if node is None:
            return default
        value = _integer(node)
        return value if value and value > 0 else None

    def sizes(self, name: str, place: int, count: int) -> Shape | None:
        """One number for each dimension, or a tuple of them."""
        node = self._find(name, place)
        if not isinstance(node, ast.Tuple):
            size = self.number(name, place)
            return (size,) * count if size else None
        sizes = [_integer(item) for item in node.elts]
        return tuple(size for size in sizes if size) if all(sizes) and len(sizes) == count else None

    def shape(self, *wanted: tuple[str, int]) -> Shape | None:
        sizes = [self.number(name, place) for name, place in wanted]
        return tuple(size for size in sizes if size) if all(sizes) else None

    def is_true(self, name: str, place: int) -> bool:
        """Whether a flag is surely on, which it is by default."""
        node = self._find(name, place)
        return node is None or (isinstance(node, ast.Constant) and node.value is True)

    def only(self, *allowed: str) -> bool:
        """Whether nothing else is given that could change what there is."""
        return len(self._given) <= len(allowed) and set(self._named) <= {*allowed, *_NEUTRAL}
