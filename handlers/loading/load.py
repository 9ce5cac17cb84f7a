"""Models from an archive's files: eager ones without copying their weights, and those that bring their own program.

An eager model is built on the meta device, where tensors have a shape and no memory. It then takes the tensors of the
checkpoint as they are mapped from the file. So nothing is initialized in vain, and the workers that load one file share
its pages. Not every class can be built that way. Where anything of the model would differ from the ordinary load, the
ordinary load is used.
"""

from __future__ import annotations

import copy
import gc
import logging
import sys
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from handlers.errors import LoadError, ModelFileError, UnsupportedFormatError, is_out_of_memory
from handlers.loading.formats import Format, detect_format
from handlers.loading.model_file import load_model_class
from handlers.loading.state_dict import find_mismatch, read_state_dict, with_keys_of

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

_MISMATCHES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)  # load_state_dict raises this
_SEARCH_LIMIT = 500_000  # objects; a larger model is loaded the ordinary way


def load_eager(model_file: Path, weights: Path | None, *, weights_only: bool = True) -> nn.Module:
    """Create the model that `model_file` defines and load its weights, on the CPU.

    Without weights the model stays as its constructor made it. `weights_only=False` allows the checkpoint to run code
    while it is read.

    Raises:
        LoadError: the model file or the weights cannot be used, or do not fit each other.
    """
    known = set(sys.modules)
    model_class = load_model_class(model_file)
    if weights is None:
        return _construct(model_class, model_file)
    state = read_state_dict(weights, weights_only=weights_only)
    imported = set(sys.modules) - known
    # Building on meta runs the user's code in an unusual way. What that leaves behind in a module can be undone only if
    # nothing else imported the module before.
    if model_class.__module__ in imported:
        model = _build_on_meta(model_class, state)
        modules = _of_folder(set(sys.modules) - known, model_file.parent.resolve())
        spoiled = _modules_refer_to_meta(modules)
        if model is not None and not spoiled and not _model_refers_to_meta(model):
            return model
        logger.debug("%s cannot be built on the meta device: building it as usual", model_class.__name__)
        if spoiled:
            for module in modules:
                sys.modules.pop(module.__name__, None)
            model_class = load_model_class(model_file)
    model = _construct(model_class, model_file)
    try:
        model.load_state_dict(state)  # its own loading hooks come first
    except _MISMATCHES as error:
        fitted = with_keys_of(model.state_dict(keep_vars=True), state)
        # Our error says what torch's does, and more: as its cause, torch's would be shown in place of ours.
        if fitted is None:
            raise find_mismatch(model, state, weights, error) from None
        try:
            model.load_state_dict(fitted)
        except _MISMATCHES as again:
            raise find_mismatch(model, fitted, weights, again) from None
    return model


def load_program(path: Path, device: torch.device | None, *, weights_only: bool = True) -> Any:
    """Load a model that needs no model file: TorchScript, torch.export, AOTInductor or ONNX, told by the content.

    Return a callable that takes tensors on `device`. `weights_only=False` allows the file to run pickled code while it
    is read; what AOTInductor compiled is native code in any case.

    Raises:
        LoadError: the file cannot be loaded.
    """
    form = detect_format(path)
    if not form.is_program:
        raise UnsupportedFormatError(
            f"{path} is {form.described}, which holds weights without the model that they belong to",
            hint="name the file that defines the model's class with --model-file, or serialise TorchScript instead",
        )
    if form is Format.TORCHSCRIPT:
        return _load_torchscript(path, device)
    from handlers.loading import programs  # their dependencies take seconds to import, and are optional

    if form is Format.EXPORTED_PROGRAM:
        return programs.load_exported(path, device, weights_only=weights_only)
    if form is Format.AOT_INDUCTOR:
        return programs.load_compiled(path, device)
    if form is Format.AOT_LIBRARY:
        return programs.load_library(path, device)
    return programs.load_onnx(path, device)


def _load_torchscript(path: Path, device: torch.device | None) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit")  # torch deprecates it; we still serve it
            module: nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
            return module
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise LoadError(
            f"{path} cannot be read: {error}",
            hint="it may be damaged, or need custom operators that the handler must import first",
        ) from error


def describe(model: Any) -> str:
    """Describe the loaded model in a few words: class, number of parameters, dtypes."""
    if not isinstance(model, nn.Module):
        return str(getattr(model, "summary", type(model).__name__))
    name = getattr(model, "original_name", None) or type(model).__name__
    parameters = list(model.parameters())
    kinds = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    count = sum(parameter.numel() for parameter in parameters if not is_lazy(parameter))
    return f"{name}, {count:,} parameters ({', '.join(kinds) or 'none'})"


def _construct(model_class: type[nn.Module], model_file: Path) -> nn.Module:
    try:
        return model_class()
    except LoadError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelFileError(
            f"creating {model_class.__name__}() of {model_file} failed: {type(error).__name__}: {error}",
            hint="a model class is created without arguments: give each a default",
        ) from error


def _build_on_meta(model_class: type[nn.Module], state: dict[str, Any]) -> nn.Module | None:
    """Build the model without memory and assign the checkpoint's tensors; None if it must be built as usual."""
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            model = model_class()
        if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
            return None  # what it holds cannot be searched
        own = model.state_dict(keep_vars=True)
        renamed = with_keys_of(own, state)
        fitted = None if renamed is None else _fit(own, renamed)
        if fitted is None:
            return None
        model.load_state_dict(fitted, assign=True)
        _tie(model, own)
        now = model.state_dict(keep_vars=True)
        same = now.keys() == own.keys() and all(
            now[key].dtype == value.dtype for key, value in own.items() if isinstance(value, torch.Tensor)
        )
    except Exception as error:  # whatever the user's class raises on meta: the ordinary way decides
        logger.debug("on the meta device %s raised %r", model_class.__name__, error)
        return None
    return model if same else None


def _fit(own: dict[str, Any], state: dict[str, Any]) -> dict[str, Any] | None:
    """Return the checkpoint's tensors with the dtypes and strides of the model's, as copying into the model would.

    None if they do not match one to one, or need a copy to be right.
    """
    fitted = copy.copy(state)
    if hasattr(state, "_metadata"):  # the modules' versions; load_state_dict notes in them that it assigns
        fitted._metadata = copy.deepcopy(state._metadata)  # type: ignore[attr-defined]
    storages: dict[int, int] = {}
    pointers: dict[int, int] = {}
    for key, value in own.items():
        if not isinstance(value, torch.Tensor):
            continue  # the result of a module's get_extra_state
        given = state[key]
        if type(given) not in (torch.Tensor, nn.Parameter) or type(value) not in (torch.Tensor, nn.Parameter):
            return None
        if given.shape != value.shape or given.layout is not torch.strided or value.layout is not torch.strided:
            return None
        if given.is_quantized or value.is_quantized:
            return None
        if value.numel() and storages.setdefault(_storage(value), id(value)) != id(value):
            return None  # two tensors of the model are views of one memory
        if given.dtype != value.dtype or given.stride() != value.stride() or given.is_conj() or given.is_neg():
            given = _cast(given, value)
        elif given.numel() and pointers.setdefault(given.data_ptr(), id(value)) != id(value):
            given = given.clone()  # one memory in the checkpoint, two tensors in the model
        fitted[key] = given.detach()
    return fitted


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # the data pointer, which is null on meta, would not tell


def _cast(given: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    result = torch.empty_strided(like.size(), like.stride(), dtype=like.dtype, device="cpu")
    with torch.no_grad():
        return result.copy_(given)


def _tie(model: nn.Module, own: dict[str, Any]) -> None:
    """Tie again what was one tensor under several names; the last name's values win, as they do when copying."""
    names: dict[int, list[str]] = {}
    for key, value in own.items():
        if isinstance(value, torch.Tensor):
            names.setdefault(id(value), []).append(key)
    for keys in names.values():
        *earlier, last = [(model.get_submodule(path), name) for path, _, name in (k.rpartition(".") for k in keys)]
        for owner, name in earlier:
            setattr(owner, name, getattr(*last))


def _model_refers_to_meta(model: nn.Module) -> bool:
    return _refers_to_meta([model], names_too=True, if_too_many=True)


def _modules_refer_to_meta(modules: list[types.ModuleType]) -> bool:
    names = frozenset(module.__name__ for module in modules)
    return _refers_to_meta([vars(module) for module in modules], classes_of=names, if_too_many=False)


def _refers_to_meta(
    roots: Iterable[Any], *, if_too_many: bool, names_too: bool = False, classes_of: frozenset[str] = frozenset()
) -> bool:
    """Return whether the roots lead to a tensor on meta, or to that device, by attributes, containers or closures.

    `names_too` also looks for the device's name. `classes_of` names the modules whose classes are searched.
    `if_too_many` is the answer where there are too many objects to search.
    """
    queue = list(roots)
    seen = {id(item) for item in queue}
    while queue:
        item = queue.pop()
        if _is_meta(item) or (names_too and type(item) is str and item == "meta"):
            return True
        for neighbour in _neighbours(item, classes_of):
            if id(neighbour) not in seen:
                seen.add(id(neighbour))
                queue.append(neighbour)
        if len(seen) > _SEARCH_LIMIT:
            return if_too_many
    return False


def _is_meta(item: Any) -> bool:
    kind = type(item)  # isinstance would ask the item for its class, and a proxy may run anything then
    return (issubclass(kind, torch.Tensor) and item.is_meta) or (kind is torch.device and item.type == "meta")


def _neighbours(item: Any, classes_of: frozenset[str]) -> Iterable[Any]:
    kind = type(item)
    if issubclass(kind, types.ModuleType | types.CodeType | str | bytes | int | float):
        return ()
    if issubclass(kind, type):
        return vars(item).values() if item.__module__ in classes_of else ()
    if kind is types.FunctionType:  # all but its globals
        cells = item.__closure__ or ()
        return (*cells, item.__defaults__, item.__kwdefaults__, item.__dict__)
    return gc.get_referents(item)


def _of_folder(names: Iterable[str], folder: Path) -> list[types.ModuleType]:
    """Return the modules whose files lie in the folder, except packages with compiled parts: those load only once."""
    files = {name: getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None) for name in names}
    inside = {name: file for name, file in files.items() if file and Path(file).resolve().is_relative_to(folder)}
    compiled = {name.partition(".")[0] for name, file in inside.items() if not file.endswith(".py")}
    return [sys.modules[name] for name in inside if name.partition(".")[0] not in compiled]
