"""The files of a pretrained model's weights: one, or several that an index names. None of them is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from archive_tool import files
from archive_tool.issues import Problem
from archive_tool.metadata.names import name_problem
from archive_tool.pretrained.documents import read_object
from archive_tool.weights.formats import Format, sniff, why_not
from handlers.wording import first_of

if TYPE_CHECKING:
    from pathlib import Path

#: In the order in which transformers looks for them. Of the second ones only tensors are loaded.
SINGLE: Final = ("model.safetensors", "pytorch_model.bin")
INDEX: Final = ".index.json"
ADAPTER: Final = "adapter_config.json"
_MAX_SHARDS: Final = 10_000
_SHARD: Final = re.compile(r"(pytorch_)?model-\d+-of-\d+\.(safetensors|bin)")
#: Of TensorFlow, Flax, ONNX, llama.cpp and Rust.
_FOREIGN: Final = (".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_SHOWN: Final = 5
_SAVE: Final = "save the model again: model.save_pretrained(folder)"
_AGAIN: Final = "load the model with from_pretrained and its variant, and save it: model.save_pretrained(folder)"
_OWN: Final = f"fetch the same model's weights for PyTorch: {' or '.join(SINGLE)}"
_COPY_THEM: Final = "copy or fetch them again"
_COPY: Final = "copy or fetch it again"


def find(folder: Path, problems: list[Problem]) -> list[str]:
    """Find the files of the weights in a folder; add what is missing or wrong to the problems."""
    for name in SINGLE:
        if (folder / name).is_file():
            found = [name]
        elif (folder / f"{name}{INDEX}").is_file():
            found = [f"{name}{INDEX}", *_shards(folder / f"{name}{INDEX}", problems)]
        else:
            continue
        looked = (problem_of(folder / file) for file in found if not file.endswith(INDEX))
        problems.extend(filter(None, looked))
        return found
    problems.append(_missing(folder))
    return []


def has(folder: Path) -> bool:
    """Return whether a folder has a model's weights, or their index."""
    return any((folder / f"{name}{end}").is_file() for name in SINGLE for end in ("", INDEX))


def foreign(folder: Path) -> Problem | None:
    """Return what is wrong with a folder that has an adapter, or weights of another framework, and no model's own."""
    where = str(folder)
    if has(folder):
        return None
    if (folder / ADAPTER).is_file():
        base = read_object(folder / ADAPTER).get("base_model_name_or_path") or "some model"
        return Problem(
            f"the folder holds an adapter of {base}, and not the model itself",
            where,
            "give the folder of that model, and this one with --adapter",
        )
    return of_others(_names(folder), where)


def of_others(names: list[str], where: str) -> Problem | None:
    """Return what is wrong with files of another framework, if such are among some."""
    others = [name for name in names if name.endswith(_FOREIGN)]
    said = f"the weights are those of another framework: {first_of(others, _SHOWN)}"
    return Problem(said, where, _OWN) if others else None


def _missing(folder: Path) -> Problem:
    """Return what to say of a folder without weights."""
    where, names = str(folder), _names(folder)
    if shards := [name for name in names if _SHARD.fullmatch(name)]:
        index = f"{SINGLE[shards[0].endswith('.bin')]}{INDEX}"
        return Problem(f"the index of the shards is missing: {index}", where, "copy it from where the shards are from")
    if problem := foreign(folder):
        return problem
    # A variant, such as model.fp16.safetensors, or what another program saved.
    if others := [name for name in names if name.endswith(".safetensors")]:
        return Problem(f"the weights are not in {SINGLE[0]}, but in {first_of(others, _SHOWN)}", where, _AGAIN)
    return Problem(f"the weights are missing: {' or '.join(SINGLE)}, or shards with an index", where, _SAVE)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _shards(index: Path, problems: list[Problem]) -> list[str]:
    """Return the files that an index names, in its order."""
    places = read_object(index).get("weight_map")
    names = list(dict.fromkeys(places.values())) if isinstance(places, Mapping) else []
    if not names or len(names) > _MAX_SHARDS or not all(isinstance(name, str) for name in names):
        problems.append(Problem("the index names no files of weights", str(index), _SAVE))
        return []
    for name in names:
        if problem := name_problem(name):
            problems.append(Problem(f"the index names the file {name!r}, whose name {problem}", str(index)))
            return []
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        said = f"{len(missing)} of {len(names)} shards are missing: {first_of(missing, _SHOWN)}"
        problems.append(Problem(said, str(index), _COPY_THEM))
    return [name for name in names if name not in missing]


def problem_of(path: Path) -> Problem | None:
    """Return what is wrong with a file of weights."""
    from archive_tool.weights import tensors

    try:
        with files.open_regular(path) as stream:
            kind = sniff(stream)
            found = tensors.read(stream, kind)
            stream.seek(0)
            header = 8 + int.from_bytes(stream.read(8), "little")
            size = stream.seek(0, 2)
    except OSError as error:
        return Problem(f"the weights cannot be read: {error.strerror}", str(path))
    if kind is Format.LFS_POINTER:
        return Problem("the file is a Git LFS pointer, not the file itself", str(path), "fetch it with `git lfs pull`")
    if found is None or kind not in (Format.SAFETENSORS, Format.STATE_DICT, Format.LEGACY_PICKLE, Format.PICKLE):
        return _no_weights(path, kind)
    if found.needs:
        return Problem(
            f"the weights are not only tensors: reading them needs {found.needs[0]}, and could run code",
            str(path),
            "save the model as safetensors: model.save_pretrained(folder)",
        )
    if kind is Format.SAFETENSORS and size < header + sum(tensor.size for tensor in found.tensors):
        return Problem("the weights are cut short: the file ends within them", str(path), _COPY)
    return None


def _no_weights(path: Path, kind: Format) -> Problem:
    """Return what is said of a file without weights, in the words of those who load it."""
    message, hint = why_not(path) or (f"the file holds no weights ({kind.value})", None)
    return Problem(message, str(path), hint or _SAVE)
