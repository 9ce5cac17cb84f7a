"""State dicts: reading them as data, and saying why one does not fit a model."""

from __future__ import annotations

import copy
import pickle
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from handlers.errors import CheckpointMismatchError, LoadError, UnsafeCheckpointError, UnsupportedFormatError
from handlers.formats import Format, detect_format

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SHOWN = 8  # keys of each kind that a mismatch lists
_WRAPPERS = {
    "module.": "torch.nn.DataParallel or DistributedDataParallel: save model.module.state_dict()",
    "_orig_mod.": "torch.compile: save the state dict of the model that was compiled (model._orig_mod)",
    "model.": "a wrapper that holds the network as `model`, as Lightning does: save model.model.state_dict()",
}


def read_state_dict(path: Path, *, weights_only: bool = True) -> dict[str, Any]:
    """Read a state dict onto the CPU, mapped from the file where the format allows it.

    With `weights_only=False` the checkpoint may run any code that it names.
    """
    form = detect_format(path)
    if form.is_program:
        raise UnsupportedFormatError(
            f"{path} is {form.described}, which needs no model file",
            hint="leave out --model-file, or serialise model.state_dict() in its place",
        )
    if form is Format.SAFETENSORS:
        return _read_safetensors(path)
    content = _read_pickled(path, weights_only=weights_only, mapped=form is Format.STATE_DICT)
    return _require_state_dict(path, content)


def _read_pickled(path: Path, *, weights_only: bool, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")  # legacy files hold them
            return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=mapped)
    except pickle.UnpicklingError as error:
        if not weights_only:
            raise _damaged(path, error) from error
        wanted = re.search(r"GLOBAL (\S+)|unrecognized function (.+)|but got (.+)", str(error))
        if wanted is None:
            raise _damaged(path, error) from error
        name = str(wanted[wanted.lastindex or 0]).strip(" .")
        raise UnsafeCheckpointError(
            f"{path} is not only tensors: reading it needs {name}, and so could run code",
            hint="save the weights alone, torch.save(model.state_dict(), ...), or, if you trust the file's origin, "
            "put `handler: {weights_only: false}` into model-config.yaml",
        ) from error
    except (AttributeError, ImportError) as error:  # only when code is allowed: its classes are not here
        raise LoadError(
            f"{path} was saved with classes that cannot be imported here: {error}",
            hint="save the weights alone, torch.save(model.state_dict(), ...)",
        ) from error
    except (RuntimeError, ValueError, OSError, EOFError, LookupError) as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UnsupportedFormatError(
            f"{path} is a safetensors file, and the package safetensors is not installed",
            hint="pip install safetensors, or add it to the archive's requirements file",
        ) from error
    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> LoadError:
    first_line = str(error).strip().partition("\n")[0]
    return LoadError(f"{path} cannot be read: {first_line}", hint="it may be damaged: write or download it again")


def _require_state_dict(path: Path, content: Any) -> dict[str, Any]:
    if isinstance(content, nn.Module):
        raise CheckpointMismatchError(
            f"{path} holds a whole pickled model ({type(content).__name__}), not a state dict",
            hint="save the weights alone: torch.save(model.state_dict(), ...)",
        )
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointMismatchError(
            f"{path} holds {type(content).__name__} and not a state dict, which maps names to tensors",
            hint="save the weights with torch.save(model.state_dict(), ...)",
        )
    return content


def find_mismatch(model: nn.Module, state: dict[str, Any], path: Path, cause: Exception) -> CheckpointMismatchError:
    """Say why `load_state_dict` refused a checkpoint: which keys, and what probably happened."""
    own = model.state_dict()
    shapes = {
        key: f"{key}: {tuple(state[key].shape)} in the checkpoint, {tuple(value.shape)} in the model"
        for key, value in own.items()
        if isinstance(value, torch.Tensor)
        and isinstance(state.get(key), torch.Tensor)
        and state[key].shape != value.shape
    }
    try:  # the model's own loading hooks decide which keys count, so ask it
        loadable = copy.copy(state)  # with its attribute `_metadata`, the versions that the hooks ask for
        for key in shapes:
            del loadable[key]
        result = model.load_state_dict(loadable, strict=False)
        missing = [key for key in result.missing_keys if key not in shapes]
        unexpected = list(result.unexpected_keys)
    except Exception:  # a hook of the model fails on what it got: compare by name
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    found = [
        _list("missing keys", missing),
        _list("unexpected keys", unexpected),
        _list("different shapes", list(shapes.values())),
    ]
    lines = [line for line in found if line] or [f"  {str(cause).strip()}"]
    return CheckpointMismatchError(
        "\n".join([f"{path.name} does not fit the model {_describe(model)}:", *lines]),
        hint=_explain(state, own),
    )


def _describe(model: nn.Module) -> str:
    file = getattr(sys.modules.get(type(model).__module__), "__file__", None)
    return f"{type(model).__name__} of {file}" if file else type(model).__name__


def _list(kind: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    separator = "; " if ":" in items[0] else ", "
    return f"  {len(items)} {kind}: {separator.join(items[:_SHOWN])}{more}"


def _explain(state: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    for key, value in state.items():
        if isinstance(value, dict) and any(isinstance(item, torch.Tensor) for item in value.values()):
            return f"the weights are nested under {key!r}: save checkpoint[{key!r}] alone"
    for prefix, origin in _WRAPPERS.items():
        wrapped = [key for key in state if key.startswith(prefix)]
        if wrapped and not any(key.startswith(prefix) for key in own):
            return f"the keys begin with {prefix!r}, the mark of {origin}"
    if state and own and all(key not in own for key in state):
        return "not one key is shared: these are the weights of another model class"
    return None
