"""The tensors of a file of weights, from its headers: nothing is unpickled, and no numbers are read.

Supported are safetensors, checkpoints of torch.save (the zip, and the pickle before torch 1.6), TorchScript, packages
of torch.export and ONNX. Memory is bounded, however large or hostile the file.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from archive_tool import json_text
from archive_tool.pickles.values import External, Followed, Global, Node, PickleError, follow
from archive_tool.reading import zip_consistency
from archive_tool.weights import dtypes
from archive_tool.weights.formats import MAX_HEADER, Format

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_TENSORS: Final = 1_000_000
_MAX_OBJECTS: Final = 5_000_000
_MAX_PATH: Final = 1000
_SIZE_LIMIT: Final = 1 << 63

# Names in checkpoints of types that hold only tensors: torch reads these with weights_only.
_PLAIN_MODULES: Final = frozenset(
    {"torch", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter", "torch.serialization"}
    | {"collections", "builtins", "__builtin__", "_codecs", "copyreg", "numpy", "numpy.dtypes"}
    | {"numpy.core.multiarray", "numpy._core.multiarray", "torch._C", "torch.jit._pickle", "typing"}
)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        name: its key, or the path of keys and attributes to it.
        dtype: torch's name of the element type; the file's own where torch has none.
        shape: sizes of its dimensions.
        storage: identifies the numbers that it shares with other tensors; None if it has its own.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    storage: str | None = None

    @property
    def count(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """The bytes of its elements; 0 if their type is not known."""
        return self.count * dtypes.ITEM_SIZES.get(self.dtype, 0)


@dataclass(frozen=True)
class Weights:
    """The tensors of a file.

    Attributes:
        tensors: each with its name; one with several names appears once for each.
        needs: classes and functions, as ``module.name``, that reading the file needs besides those of tensors.
    """

    tensors: tuple[Tensor, ...]
    needs: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """The number of elements, including buffers, with shared ones counted once."""
        return sum(tensor.count for tensor in self._distinct())

    @property
    def types(self) -> dict[str, int]:
        """The number of elements by type, the most frequent type first."""
        counts: dict[str, int] = {}
        for tensor in self._distinct():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def size(self) -> int:
        """The bytes of memory that the elements take."""
        return sum(tensor.size for tensor in self._distinct())

    def _distinct(self) -> Iterator[Tensor]:
        seen: dict[str, Tensor] = {}
        for tensor in self.tensors:
            if tensor.storage is None:
                yield tensor
            # Of several views of one storage the largest counts.
            elif tensor.storage not in seen or seen[tensor.storage].count < tensor.count:
                seen[tensor.storage] = tensor
        yield from seen.values()


def read(stream: IO[bytes], kind: Format) -> Weights | None:
    """Read the tensors of a file from a seekable stream.

    Returns:
        None if the format does not describe tensors, or the file is not in the format.

    Raises:
        OSError: it cannot be read.
    """
    stream.seek(0)
    try:
        if kind is Format.SAFETENSORS:
            return _safetensors(stream)
        if kind in (Format.STATE_DICT, Format.TORCHSCRIPT):
            return _from_zip(stream)
        if kind in (Format.LEGACY_PICKLE, Format.PICKLE):
            return _legacy(io.BytesIO(stream.read(MAX_HEADER)))
        if kind is Format.EXPORTED_PROGRAM:
            return _exported(stream)
        if kind is Format.ONNX:
            from archive_tool.weights import onnx

            return Weights(tuple(Tensor(name, dtype, _shape(sizes)) for name, dtype, sizes in onnx.read(stream)))
    # The errors for damaged headers, found by mutating good ones.
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, struct.error, zlib.error, RecursionError):
        return None
    except (NotImplementedError, EOFError, OverflowError, IndexError, AttributeError, RuntimeError, MemoryError):
        return None
    return None


def read_start(stream: IO[bytes]) -> tuple[Format, Weights] | None:
    """Read the tensors from the start of a stream that cannot be rewound: of a large packed member.

    Safetensors and the checkpoints of torch.save describe all tensors in their first bytes.
    """
    head = stream.read(8)
    try:
        if head.startswith(b"PK\x03\x04"):
            head += stream.read(22)
            # The local header of the first member: its method, and the lengths of its name and of an extra field.
            method, name_length, extra_length = struct.unpack("<8xH16x2H", head)
            name = stream.read(name_length)
            if method != zipfile.ZIP_STORED or not name.endswith(b"/data.pkl"):
                return None
            stream.read(extra_length)
            return Format.STATE_DICT, _weights(follow(io.BytesIO(stream.read(MAX_HEADER))))
        (length,) = struct.unpack("<Q", head)
        if 2 <= length <= MAX_HEADER:
            return Format.SAFETENSORS, _of_header(json_text.loads(stream.read(length), max_bytes=MAX_HEADER))
    except (ValueError, KeyError, TypeError, struct.error, RecursionError, AttributeError):
        return None
    return None


# ---- safetensors ---------------------------------------------------------------------------------------------------


def _safetensors(stream: IO[bytes]) -> Weights:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > MAX_HEADER:
        raise ValueError("the header is too long")
    return _of_header(json_text.loads(stream.read(length), max_bytes=MAX_HEADER))


def _of_header(header: Any) -> Weights:
    found = []
    for name, entry in header.items():
        if name != "__metadata__":
            dtype = str(entry["dtype"])
            found.append(Tensor(name, dtypes.SAFETENSORS.get(dtype, dtype), _shape(entry["shape"])))
    return Weights(tuple(found))


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, (list, tuple)) or len(sizes) > 64:
        raise ValueError("a shape is a list of a few sizes")
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _SIZE_LIMIT:
            raise ValueError("a size is a number from 0")
    if math.prod(sizes) >= _SIZE_LIMIT:
        raise ValueError("no memory holds that many numbers")
    return tuple(sizes)


# ---- torch.save and TorchScript ------------------------------------------------------------------------------------


def _from_zip(stream: IO[bytes]) -> Weights:
    with zip_consistency.open_zip(stream) as archive:
        names = [name for name in archive.namelist() if name.partition("/")[2] == "data.pkl"]
        if not names:
            raise ValueError("no pickle of the object")
        return _weights(follow(io.BytesIO(_read(archive, names[0]))))


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as member:
        return member.read(MAX_HEADER)


def _legacy(stream: IO[bytes]) -> Weights:
    """Read the format before torch 1.6: pickles of a magic number, the version and machine facts precede the object."""
    first = follow(stream)
    if not isinstance(first.value, int):
        return _weights(first)  # a plain pickle
    for _ in range(2):
        follow(stream)
    return _weights(follow(stream))


def _weights(pickle: Followed) -> Weights:
    needs = [name for name in pickle.names if not _is_plain(name)]
    return Weights(tuple(_find(pickle.value)), tuple(needs))


def _is_plain(name: str) -> bool:
    module = name.rpartition(".")[0]
    return module in _PLAIN_MODULES or name.startswith("__torch__.")


def _find(root: Any) -> Iterator[Tensor]:
    """Yield the tensors in the result of a pickle, in order; each object once."""
    todo: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    count = 0
    while todo:
        path, value = todo.pop()
        if not isinstance(value, (dict, list, tuple, Node)):
            continue
        found = _tensor(path, value) if isinstance(value, Node) else None
        if found is not None:
            count += 1
            yield found
        elif id(value) not in seen:
            seen.add(id(value))
            todo += reversed([(_join(path, key), item) for key, item in _children(value)])
        if count > _MAX_TENSORS or len(seen) + len(todo) > _MAX_OBJECTS:
            raise PickleError("it holds too much")


def _children(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key) if isinstance(key, (str, int)) else "?", item) for key, item in value.items()]
    if isinstance(value, Node):
        return [*_children(value.items), *_children(value.values), *_children(value.args), ("", value.state)]
    return [(str(index), item) for index, item in enumerate(value)]


def _join(path: str, key: str) -> str:
    # Deeply nested lists: the paths of a hostile pickle would take more than all the rest.
    return (f"{path}.{key}" if path and key else path + key)[:_MAX_PATH]


def _tensor(path: str, node: Node) -> Tensor | None:
    """Return the tensor that a call makes; None if it makes something else."""
    function, args = node.function, node.args
    for _ in range(8):  # a parameter or a subclass wraps a tensor
        if function == "torch._tensor._rebuild_from_type_v2" and len(args) > 2 and isinstance(args[0], Global):
            function, args = args[0].name, args[2]
        elif function.startswith("torch._utils._rebuild_parameter") and args and isinstance(args[0], Node):
            function, args = args[0].function, args[0].args
        else:
            break
    if not function.startswith("torch._utils._rebuild_") or not isinstance(args, tuple) or len(args) < 3:
        return None
    storage = args[0]
    if not isinstance(storage, External) or not isinstance(storage.key, tuple) or len(storage.key) < 3:
        return None
    kind, key = storage.key[1], storage.key[2]
    if not isinstance(kind, Global) or not isinstance(key, str):
        return None
    stem = kind.name.rpartition(".")[2].removesuffix("Storage")
    dtype = dtypes.STORAGES.get(stem, "")
    if function.endswith("_v3") and len(args) > 6 and isinstance(args[6], Global):  # its storage has no type
        dtype = args[6].name.removeprefix("torch.")
    try:
        return Tensor(path, dtype or stem, _shape(args[2]), key)
    except ValueError:
        return None


# ---- torch.export --------------------------------------------------------------------------------------------------


def _exported(stream: IO[bytes]) -> Weights | None:
    with zip_consistency.open_zip(stream) as archive:
        names = archive.namelist()
        config = next((name for name in names if name.endswith("/model_weights_config.json")), None)
        if config is not None:
            return Weights(tuple(_of_config(json_text.loads(_read(archive, config), max_bytes=MAX_HEADER))))
        # Before torch 2.9 the state dict is a checkpoint in the package.
        inner = next((name for name in names if name.endswith("serialized_state_dict.pt")), None)
        return _from_zip(io.BytesIO(_read(archive, inner))) if inner else None


def _of_config(document: Any) -> Iterator[Tensor]:
    entries: Mapping[str, Any] = document["config"]
    for name, entry in entries.items():
        meta = entry["tensor_meta"]
        shape = _shape([size["as_int"] for size in meta["sizes"]])
        dtype = dtypes.EXPORT.get(str(meta["dtype"]), f"type {meta['dtype']}")
        yield Tensor(name, dtype, shape, str(entry["path_name"]))
