"""The names that a pickle may import and still be data: constructors of numbers, containers and tensors."""

from __future__ import annotations

import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Final

#: Up to this protocol an unpickler maps names of Python 2 to those of Python 3; such pickles still use the old ones.
PYTHON_2: Final = 2

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
# ... and the numbers and containers besides that a training loop saves: they run nothing either.
_OTHERS: Final = frozenset(
    {
        "builtins.bytes",
        "builtins.dict",
        "builtins.float",
        "builtins.frozenset",
        "builtins.int",
        "builtins.list",
        "builtins.object",
        "builtins.range",
        "builtins.slice",
        "builtins.str",
        "builtins.tuple",
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
    r"torch\.(bool|bfloat16|(float|b?complex|u?int|qu?int|bits)[0-9]+(x[0-9]+)?"
    r"(_e[0-9]+m[0-9]+[a-z]*(_x[0-9]+)?)?)"
)
_NUMBERS: Final = (
    "BFloat16",
    "Bool",
    "Byte",
    "Char",
    "ComplexDouble",
    "ComplexFloat",
    "Double",
    "Float",
    "Half",
    "Int",
    "Long",
    "Short",
)
_QUANTIZED: Final = ("QInt32", "QInt8", "QUInt2x4", "QUInt4x2", "QUInt8")
# The types of old checkpoints: torch.FloatStorage, torch.cuda.sparse.HalfTensor.
_TYPES: Final = frozenset(
    {
        f"torch.{device}{kind}Storage"
        for device in ("", "cuda.")
        for kind in (*_NUMBERS, *_QUANTIZED, "Untyped", "Typed")
    }
    | {f"torch.{device}{kind}Tensor" for device in ("", "cuda.", "sparse.", "cuda.sparse.") for kind in _NUMBERS}
)
# What TorchScript's writer in C++ names besides the model's classes, which are in its own language.
_TORCHSCRIPT: Final = frozenset(
    f"torch.jit._pickle.{name}"
    for name in (
        "build_boollist",
        "build_doublelist",
        "build_intlist",
        "build_tensor_from_id",
        "build_tensorlist",
        "restore_type_tag",
    )
)
_TORCHSCRIPT_CLASS: Final = re.compile(r"__torch__(\.[A-Za-z_][A-Za-z0-9_]*)+")


def of(module: str, attribute: str, protocol: int = PYTHON_2) -> str:
    """Return what an unpickler imports, as ``module.name``, for a module and an attribute in a pickle of a protocol."""
    if protocol <= PYTHON_2:
        module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
    return f"{module}.{attribute}"


def is_data(name: str, *, torchscript: bool = False) -> bool:
    """Return whether a name, ``module.name``, only makes data when it is imported and called.

    Args:
        name: exactly; attributes of such a name are not data.
        torchscript: the pickle is part of a TorchScript file, whose reader in C++ knows no Python.
    """
    if name in _TORCH or name in _OTHERS or name in _TYPES or _DTYPE.fullmatch(name):
        return True
    return torchscript and (name in _TORCHSCRIPT or _TORCHSCRIPT_CLASS.fullmatch(name) is not None)
