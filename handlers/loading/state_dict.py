"""State dicts: reading them as data, matching their keys to a model's, and explaining mismatches."""

from __future__ import annotations

import collections
import copy
import pickle
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from handlers.errors import CheckpointMismatchError, LoadError, UnsafeCheckpointError, UnsupportedFormatError
from handlers.loading.formats import Format, detect_format
from handlers.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

_DEEPEST = 16  # parts of a prefix
_SHOWN = 8  # keys of each kind that the error lists
_WRAPPERS = {
    "module.": "torch.nn.DataParallel or DistributedDataParallel: save model.module.state_dict()",
    "_orig_mod.": "torch.compile: save the state dict of the model that was compiled (model._orig_mod)",
    "model.": "a wrapper that holds the network as `model`, as Lightning does: save model.model.state_dict()",
}


def read_state_dict(path: Path, *, weights_only: bool = True) -> dict[str, Any]:
    """Read a state dict onto the CPU, mapped from the file where the format allows it.

    With `weights_only=False` the checkpoint may run any code that it names.

    Raises:
        LoadError: the file is not a state dict that can be read.
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
            warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")  # legacy files contain them
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
        ) from None  # torch's own error names no file, and would be shown in place of this one
    except (AttributeError, ImportError) as error:  # only when code is allowed: its classes are missing here
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


def with_keys_of(own: Mapping[str, Any], state: dict[str, Any]) -> dict[str, Any] | None:
    """Rename the keys of a state dict to those of a model.

    The keys may differ by a prefix, and by further names of tied weights. `own` is the model's
    `state_dict(keep_vars=True)`. The prefix must be one that all keys of one side have. A tensor that the model has
    under several names may be in the checkpoint under only one of them, as in safetensors. Return None if anything else
    differs.
    """
    if own.keys() == state.keys():
        return state
    theirs, ours = _prefixes(state, own)
    if (theirs and ours) or not all(key.startswith(theirs) for key in state):
        return None
    found = collections.OrderedDict((ours + key[len(theirs) :], value) for key, value in state.items())
    names: dict[int, list[str]] = {}
    for key, value in own.items():
        names.setdefault(id(value), []).append(key)
    for key in own.keys() - found.keys():
        same = next((name for name in names[id(own[key])] if name in found), None)
        if same is None or not isinstance(own[key], torch.Tensor):
            return None
        found[key] = found[same]
    if found.keys() != own.keys():
        return None
    modules = getattr(state, "_metadata", None)
    if modules is not None:  # the versions of the modules, by their paths
        paths = {path: f"{path}." for path in modules}
        renamed = {
            (ours + dotted[len(theirs) :]).rstrip("."): modules[path]
            for path, dotted in paths.items()
            if dotted.startswith(theirs)
        }
        found._metadata = collections.OrderedDict(renamed)  # type: ignore[attr-defined]
    return found


def _prefixes(state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str, str]:
    """Return the prefix of the checkpoint's keys, and the model's in its place, with which most keys are equal."""
    candidates = {(theirs, ours) for theirs in _common_prefixes(state) for ours in _common_prefixes(own)}
    # If not all keys have a prefix: the most common one before a key of the other side.
    candidates |= {(prefix, "") for prefix in _usual_prefixes(state, own)}
    candidates |= {("", prefix) for prefix in _usual_prefixes(own, state)}

    def shared(pair: tuple[str, str]) -> tuple[int, int]:
        theirs, ours = pair
        count = sum(ours + key[len(theirs) :] in own for key in state if key.startswith(theirs))
        return count, -len(theirs) - len(ours)

    return max(sorted(candidates), key=shared)


def _common_prefixes(keys: Collection[str]) -> list[str]:
    """Return the prefixes that all keys have, each up to a dot: none, `model.`, `model.encoder.` and so on."""
    found = [""]
    if keys:
        first, last = min(keys), max(keys)  # these two are the extremes, so all keys share what they share
        for index, (one, other) in enumerate(zip(first, last, strict=False)):
            if one != other or len(found) > _DEEPEST:
                break
            if one == ".":
                found.append(first[: index + 1])
    return found


def _usual_prefixes(keys: Iterable[str], others: Collection[str]) -> list[str]:
    counts = collections.Counter(
        key[: len(key) - len(rest)] for key in keys for rest in _without_parts(key) if rest in others
    )
    return [prefix for prefix, _ in counts.most_common(2)]


def _without_parts(key: str) -> Iterator[str]:
    """Yield the key without its first part, without its first two, and so on."""
    for _ in range(_DEEPEST):
        _, dot, key = key.partition(".")
        if not dot:
            return
        yield key


def find_mismatch(model: nn.Module, state: dict[str, Any], path: Path, cause: Exception) -> CheckpointMismatchError:
    """Explain why `load_state_dict` refused a checkpoint: which keys, and the probable cause."""
    own = model.state_dict()
    shapes = {
        key: f"{key}: {tuple(state[key].shape)} in the checkpoint, {tuple(value.shape)} in the model"
        for key, value in own.items()
        if isinstance(value, torch.Tensor)
        and isinstance(state.get(key), torch.Tensor)
        and state[key].shape != value.shape
    }
    try:  # the model's own loading hooks decide which keys count, so ask it
        loadable = copy.copy(state)  # with its attribute `_metadata`, the versions that the hooks read
        for key in shapes:
            del loadable[key]
        result = model.load_state_dict(loadable, strict=False)
        missing = [key for key in result.missing_keys if key not in shapes]
        unexpected = list(result.unexpected_keys)
    except Exception:  # a hook of the model fails on this input: compare by name
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
    return f"  {len(items)} {kind}: {first_of(items, _SHOWN, '; ' if ':' in items[0] else ', ')}"


def _explain(state: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    for key, value in state.items():
        if isinstance(value, dict) and any(isinstance(item, torch.Tensor) for item in value.values()):
            return f"the weights are nested under {key!r}: save checkpoint[{key!r}] alone"
    theirs, ours = _prefixes(state, own)
    if theirs or ours:
        return _explain_prefix(theirs, ours)
    if state and own and all(key not in own for key in state):
        return "not one key is shared: these are the weights of another model class"
    return None


def _explain_prefix(theirs: str, ours: str) -> str:
    if not theirs:
        return f"the model's keys begin with {ours!r}, those of the checkpoint do not, and more than that differs"
    if ours:
        return f"the keys begin with {theirs!r}, those of the model with {ours!r}: rename them if these are its weights"
    origin = next((f", the mark of {text}" for prefix, text in _WRAPPERS.items() if theirs.startswith(prefix)), "")
    return f"more differs than that keys begin with {theirs!r}{origin}"
