"""The table of what the text of a saved program (torch.export) may contain, for the worker and for archive checks.

A program is JSON, and torch makes code of much of it when it loads it: it evaluates sizes and conditions, writes names
into Python source, imports types by name, and looks operators up by dotted names (torch/_export/serde/serialize.py,
torch/export/_unlift.py, torch/utils/_pytree.py). So every text is of a known kind and must match the grammar of that
kind. A text in an unknown place is refused. Without torch; the names are those of torch/_export/serde/schema.py.
"""

from __future__ import annotations

import json
import keyword
import re
from typing import TYPE_CHECKING, Any, Final

from handlers.loading import expressions

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of a program's text, and parts of it, counted before anything is parsed.
MAX_TEXT: Final = 128 << 20
_MAX_PARTS: Final = 4_000_000
_MAX_NAME: Final = 1024
#: Characters of all distinct expressions; each is parsed once.
_MAX_EXPRESSIONS: Final = 1 << 20
_SHOWN: Final = 80


class NotPlainError(Exception):
    """A text would become code, or might.

    Attributes:
        keys: the path to it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.keys: list[str] = []

    def __str__(self) -> str:
        where = ".".join(self.keys)
        return f"at {where} {self.args[0]}" if where else str(self.args[0])


def is_name(text: str) -> bool:
    """Return whether a text is the name of a value or an argument; an empty text counts, too."""
    if not text:
        return True
    # An argument of aten is called `from`.
    return text.isidentifier() and len(text) <= _MAX_NAME and (text == "from" or not keyword.iskeyword(text))


def is_path(text: str) -> bool:
    """Return whether a text is the dotted name of a parameter or module.

    Keys of `nn.ModuleDict` may be odd: `blocks.a-b`.
    """
    if len(text) > _MAX_NAME or not text.isprintable() or set(text) & set("\"'\\"):
        return False
    return not any(part.startswith("__") and part.endswith("__") for part in text.split("."))


_OPERATOR: Final = re.compile(
    r"torch\.ops\.(?P<space>[A-Za-z]\w*|_[A-Za-z]\w*)\.(?P<name>\w+)\.[A-Za-z]\w*"
    r"|torch\.ops\.higher_order\.(?P<higher>\w+)"
    r"|_operator\.(?:abs|add|and_|eq|floordiv|ge|gt|inv|invert|le|lshift|lt|mod|mul|ne|neg|not_|or_|pos|pow"
    r"|rshift|sub|truediv|xor)"
    r"|math\.[a-z][a-z0-9_]*"
    r"|torch\._?sym_[a-z0-9_]+"
    r"|torch\.amp\.autocast_mode\._(?:enter|exit)_autocast|torch\._C\._set_grad_enabled"
    r"|torch\._functorch\.predispatch\.(?:lazy_load_decompositions|_add_batch_dim|_enter_dual_level|_exit_dual_level"
    r"|_jvp_decrement_nesting|_jvp_increment_nesting|_make_dual|_remove_batch_dim|_unpack_dual|_unwrap_for_grad"
    r"|_vmap_decrement_nesting|_vmap_increment_nesting)",
    re.ASCII,
)
# Attributes of torch.ops that are not namespaces; and operators that read or write a file by name.
_NO_NAMESPACES: Final = frozenset({"higher_order", "import_module", "load_library", "loaded_libraries"})
_FILES: Final = frozenset({("aten", "from_file"), ("aten", "save"), ("debugprims", "load_tensor")})
#: The dunder names among aten's operators.
_DUNDERS: Final = re.compile(r"__i?(?:and|or|xor|lshift|rshift)__|(?!__)\w+", re.ASCII)
#: The operators of torch.export's control flow and modes. Not those of compiled code, kernels, assembler and custom
#: objects.
_HIGHER_ORDER: Final = frozenset(
    {"_export_tracepoint", "associative_scan", "auto_functionalized", "auto_functionalized_v2"}
    | {"autograd_function_apply", "checkpoint", "cond", "flex_attention", "flex_attention_backward", "foreach_map"}
    | {"graphsafe_run_with_rng_state", "hints_wrapper", "invoke_quant", "invoke_quant_packed", "invoke_subgraph"}
    | {"map", "map_impl", "out_dtype", "run_and_save_rng_state", "run_with_rng_state", "scan", "strict_mode", "switch"}
    | {"tag_activation_checkpoint", "while_loop", "while_loop_stack_output", "with_effects", "wrap_with_autocast"}
    | {"wrap_with_set_grad_enabled"}
)


def is_operator(text: str) -> bool:
    """Return whether a text is the dotted name of an operator, including custom operators registered with torch."""
    found = _OPERATOR.fullmatch(text)
    if found is None:
        return False
    space, name, higher = found.group("space", "name", "higher")
    if higher:
        return higher in _HIGHER_ORDER
    if space:
        return space not in _NO_NAMESPACES and (space, name) not in _FILES and bool(_DUNDERS.fullmatch(name))
    return True


#: What a defaultdict among the inputs may use as its factory.
_FACTORIES: Final = frozenset(
    {
        ("builtins", name)
        for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
    }
    | {("collections", name) for name in ("Counter", "OrderedDict", "deque")}
)
_TYPE: Final = re.compile(r"[\w.<>]{1,1024}")
_ENUM: Final = "__enum__"


def _treespec(text: str, *, inputs: bool) -> None:
    """Require a structure of inputs or outputs in which nothing is imported by its name.

    A type must already be registered with torch. Only its context, a factory or an enum, may be imported.
    """
    try:
        _, spec = json.loads(text)
        _node(spec)
        arguments = spec["children_spec"]
        pair = [argument["type"] for argument in arguments] if inputs else []
        if spec["type"] == "builtins.tuple" and pair == ["builtins.tuple", "builtins.dict"]:
            names = json.loads(arguments[1]["context"])
            if not isinstance(names, list) or not all(
                isinstance(name, str) and name and is_name(name) for name in names
            ):
                raise NotPlainError("names arguments that are no names")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotPlainError("cannot be read as the structure of inputs or outputs") from error


def _node(spec: dict[str, Any]) -> None:
    kind, context = spec["type"], spec["context"]
    if kind is not None and not _TYPE.fullmatch(kind):
        raise NotPlainError(f"names a type {_short(kind)}")
    if kind == "collections.defaultdict":
        factory = (context["default_factory_module"], context["default_factory_name"])
        if factory not in _FACTORIES:
            raise NotPlainError(f"imports {_short('.'.join(map(str, factory)))}")
    _context(context)
    for child in spec["children_spec"]:
        _node(child)


def _context(value: Any) -> None:
    if isinstance(value, str):
        if _ENUM in value or "\\" in value:
            _context(_loaded(value))
    elif isinstance(value, dict):
        if _ENUM in value:
            raise NotPlainError(f"imports an enum, {_short(str(value.get('fqn')))}")
        for key, one in value.items():
            _context(key)
            _context(one)
    elif isinstance(value, list):
        for one in value:
            _context(one)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_from_stack(text: str) -> bool:
    """Return whether a text lists the functions that a value came from.

    It is `name,dotted.name;...`; torch looks each name up and calls none.
    """
    return all(re.fullmatch(r"[^,;]*,[\w.<>]*", item) for item in text.split(";"))


def _pattern(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: bool(compiled.fullmatch(text))


def _anything(text: str) -> bool:  # noqa: ARG001
    return True


_is_float: Final = _pattern(r"-?Infinity|NaN|-?inf|nan")
# A quoted text in a condition on an input.
_is_input_text: Final = _pattern(r"[^'\"\\\r\n]*")
_is_word: Final = _pattern(r"[\w.]{0,64}")

#: The grammar of texts, by the key at which they stand.
_TEXTS: Final[dict[str, Callable[[str], bool]]] = {
    **dict.fromkeys(("name", "as_name", "field_names", "forward_arg_names"), is_name),
    **dict.fromkeys(("parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn"), is_path),
    **dict.fromkeys(("target", "as_operator"), is_operator),
    **dict.fromkeys(("as_float", "as_floats", "as_float_lists", "real", "imag"), _is_float),
    # Only shown, or passed to an operator as they are.
    **dict.fromkeys(("as_string", "as_strings", "custom", "from_node", "nn_module_stack", "stack_trace"), _anything),
    **dict.fromkeys(("torch_fn", "torch_version"), _anything),
    **dict.fromkeys(("type", "verifiers", "dialect"), _is_word),
    "source_fn_stack": _is_from_stack,
    "guards_code": expressions.is_guard,
    "expr_str": expressions.is_size,
}
#: Keys whose value is an object with names as keys, and the grammar of these.
_MAPS: Final[dict[str, Callable[[str], bool]]] = {
    **dict.fromkeys(("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"), is_name),
    "custom_obj_values": is_name,
    "range_constraints": expressions.is_size,
    "opset_version": _is_word,
    "treespec_namedtuple_fields": is_path,
    "as_string_to_argument": _anything,
}
#: The schema's keys without a text of their own.
_PLAIN: Final = frozenset(
    {"arg", "as_bool", "as_bools", "as_complex", "as_custom_obj", "as_device", "as_expr", "as_graph", "as_int"}
    | {"as_int_lists", "as_ints", "as_layout", "as_memory_format", "as_nested_tensors", "as_none"}
    | {"as_optional_tensor", "as_optional_tensors", "as_scalar_type", "as_sym_bool", "as_sym_bools", "as_sym_float"}
    | {"as_sym_floats", "as_sym_int", "as_sym_ints", "as_tensor", "as_tensors", "buffer", "buffer_mutation"}
    | {
        "constant_input",
        "custom_obj",
        "device",
        "dtype",
        "example_inputs",
        "equality_constraints",
        "gradient_to_parameter",
    }
    | {"gradient_to_user_input", "graph", "graph_module", "hint", "index", "input_specs", "inputs"}
    | {"is_hop_single_tensor_return", "is_param", "is_single_tensor_return", "kind", "layout", "loss_output", "major"}
    | {"max_val", "metadata", "min_val", "minor", "module_call_graph", "nodes", "output_specs", "outputs", "parameter"}
    | {"parameter_mutation", "persistent", "requires_grad", "schema_version", "signature", "sizes", "storage_offset"}
    | {"strides", "tensor_constant", "tensor_meta", "token", "use_pickle", "user_input", "user_input_mutation"}
    | {"user_output", "value"}
)
_TREESPECS: Final = frozenset({"in_spec", "out_spec"})
_OBJECTS: Final = frozenset({"class_fqn", "custom_obj_name"})


def require_plain(data: bytes) -> None:
    """Require that nothing of a program's text becomes code, except its operators.

    Args:
        data: the whole content of the member, such as `models/model.json`.

    Raises:
        NotPlainError: some text would become code, or is unknown.
    """
    try:
        _Walk().value(parse(data), "", "")
    except RecursionError as error:
        raise NotPlainError("is nested too deep") from error


def parse(data: bytes) -> Any:
    """Read JSON as torch does.

    Raises:
        NotPlainError: it cannot be read, or is too long.
    """
    if len(data) > MAX_TEXT or sum(map(data.count, (b"{", b"[", b","))) > _MAX_PARTS:
        raise NotPlainError("is too long to be looked through")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise NotPlainError("cannot be read as JSON") from error


class _Walk:
    def __init__(self) -> None:
        self._read = set[tuple[str, str]]()  # expressions
        self._left = _MAX_EXPRESSIONS

    def value(self, value: Any, key: str, parent: str) -> None:
        """Require plain texts in the value at a key; in a list, in each of its items."""
        if isinstance(value, str):
            self._text(value, key, parent)
        elif isinstance(value, list):
            for number, one in enumerate(value):
                with _Way(str(number)):
                    self.value(one, key, parent)
        elif isinstance(value, dict):
            if key in _TEXTS or key in _TREESPECS:
                raise NotPlainError("is no text")
            for name, one in value.items():
                with _Way(_short(name, quoted=False)):
                    self._pair(name, one, key)

    def _pair(self, name: str, value: Any, parent: str) -> None:
        if parent in _MAPS:
            self._text(name, parent, "", _MAPS[parent])
            self.value(value, "", parent)
        elif name in _TEXTS or name in _MAPS or name in _PLAIN or name in _TREESPECS or name in _OBJECTS:
            self.value(value, name, parent)
        elif not _is_numbers(value):
            raise NotPlainError("is nothing that is known of programs; a newer torch may have written it")

    def _text(self, text: str, key: str, parent: str, accepts: Callable[[str], bool] | None = None) -> None:
        if key in _OBJECTS:
            raise NotPlainError("holds an object of a class, which is unpickled")
        if key in _TREESPECS:
            if (key, text) not in self._read:
                _treespec(text, inputs=key == "in_spec")
                self._read.add((key, text))
            return
        accepts = accepts or _TEXTS.get(key)
        if key == "as_string" and parent == "inputs":
            accepts = _is_input_text
        if accepts is None:
            raise NotPlainError(f"is a text where none is known: {_short(text)}")
        if accepts in (expressions.is_size, expressions.is_guard):
            if (key, text) in self._read:
                return
            self._read.add((key, text))
            self._left -= len(text)
            if self._left < 0:
                raise NotPlainError("holds too many expressions to be looked through")
        if not accepts(text):
            raise NotPlainError(f"would be made code: {_short(text)}")


class _Way:
    """A context that adds a key to the path of an error on its way up."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NotPlainError):
            error.keys.insert(0, self._key)


def _is_numbers(value: Any) -> bool:
    return (
        not value or isinstance(value, (bool, int, float)) or (isinstance(value, list) and all(map(_is_numbers, value)))
    )


def _short(text: str, *, quoted: bool = True) -> str:
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return repr(shown) if quoted or not shown.isidentifier() else shown
