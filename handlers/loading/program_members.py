"""The members of a saved program (torch.export) that torch reads, and whether one of them would run code.

For the worker and for the check of archives; without torch. Torch before 2.7 writes other members than torch of today,
and torch ignores case when it looks a name up: see `torch/export/pt2_archive/_package.py`.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final

from handlers.loading import program_text
from handlers.loading.program_text import NotPlainError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Bytes of the pickle of example inputs, whose tensors are stored separately.
_MAX_EXAMPLES: Final = 1 << 20
_PAYLOAD: Final = re.compile(r"\w[\w.-]{0,254}", re.ASCII)
_OBJECT: Final = re.compile(r"(?:custom|opaque)_obj_.*", re.DOTALL)
_CONFIG: Final = re.compile(r"data/(?:weights|constants)/.*_config\.json", re.DOTALL)
_OLD_PROGRAM: Final = "serialized_exported_program.json"
_OLD_EXAMPLES: Final = "serialized_example_inputs.pt"
#: Passed to torch.load; those that are not `.pt` are of torch before 2.2.
_OLD_PICKLES: Final = frozenset(
    {"serialized_state_dict.json", "serialized_state_dict.pt", "serialized_constants.json", "serialized_constants.pt"}
    | {_OLD_EXAMPLES}
)
# A quoted text in a condition on the inputs: it is written into source, and contains the keys of a dict of inputs.
_QUOTED: Final = frozenset("\"'\\\r\n")


@dataclass
class Members:
    """The findings in the members of a program.

    Attributes:
        problems: pairs of a member and what is wrong with it, as the end of a sentence.
        pickles: the members that torch unpickles, whatever their names.
    """

    problems: list[tuple[str, str]] = field(default_factory=list)
    pickles: set[str] = field(default_factory=set)


def colliding(names: Sequence[str]) -> list[str]:
    """Return the names that collide if case is ignored: torch reads one of them, and zipfile another."""
    counts = Counter(map(str.lower, names))
    return [name for name in names if counts[name.lower()] > 1]


def is_program(names: Sequence[str]) -> bool:
    """Return whether torch.export would load a zip with these members."""
    return any(name.lower() == _OLD_PROGRAM or _within(name) == "archive_format" for name in names)


def look_into(
    names: Sequence[str],
    open_member: Callable[[str], IO[bytes]],
    open_zip: Callable[[IO[bytes]], zipfile.ZipFile] = zipfile.ZipFile,
) -> Members:
    """Check the members of a program without loading anything.

    Args:
        names: of all members.
        open_member: opens one of them for reading, seekable.
        open_zip: opens zips among them; another one may read less of their directory.
    """
    found = Members()
    for name in names:
        inner = _within(name)
        try:
            if inner.startswith("models/") or name.lower() == _OLD_PROGRAM:
                program_text.require_plain(_text(name, open_member))
            elif _CONFIG.fullmatch(inner):
                _payloads(name, _text(name, open_member), found)
            elif inner.startswith("data/sample_inputs/") or name.lower() == _OLD_EXAMPLES:
                found.pickles.add(name)
                with open_member(name) as stream:
                    _require_plain_texts(stream, open_zip)
            elif name.lower() in _OLD_PICKLES:
                found.pickles.add(name)
        except NotPlainError as error:
            found.problems.append((name, f"may run code when it is loaded: {error}"))
    return found


def _text(name: str, open_member: Callable[[str], IO[bytes]]) -> bytes:
    with open_member(name) as stream:
        return stream.read(program_text.MAX_TEXT + 1)


def _within(name: str) -> str:
    """Return a name without the folder that contains all members."""
    return name.lower().partition("/")[2]


def _payloads(name: str, data: bytes, found: Members) -> None:
    """Note what torch unpickles because of a list of weights or constants."""
    folder = name.rpartition("/")[0]
    config = program_text.parse(data)
    payloads = config.get("config") if isinstance(config, dict) else None
    if not isinstance(payloads, dict):
        raise NotPlainError("is no list of weights or constants")
    for key, payload in payloads.items():
        inside = payload.get("path_name") if isinstance(payload, dict) else None
        if not program_text.is_path(key) or not isinstance(inside, str):
            raise NotPlainError(f"holds a payload that is not understood, {key[:80]!r}")
        if _OBJECT.fullmatch(inside):
            raise NotPlainError(f"{key[:80]!r} is an object of a class, which is unpickled from {inside[:80]}")
        if not _PAYLOAD.fullmatch(inside):
            raise NotPlainError(f"names a member as torch names none, {inside[:80]!r}")
        if payload.get("use_pickle"):
            found.pickles.add(f"{folder}/{inside}")


def _require_plain_texts(stream: IO[bytes], open_zip: Callable[[IO[bytes]], zipfile.ZipFile]) -> None:
    """Require that no text of example inputs can end the quotes that torch puts around it."""
    if not stream.read(1):
        return
    stream.seek(0)
    try:
        with open_zip(stream) as archive:
            names = archive.namelist()
            [pickled] = [name for name in names if name.lower().endswith("data.pkl")]
            if colliding(names) or archive.getinfo(pickled).file_size > _MAX_EXAMPLES:
                raise NotPlainError("holds example inputs that are too many, or are there twice")
            for code, value, _ in pickletools.genops(archive.read(pickled)):
                text = value.decode("latin-1") if isinstance(value, bytes) else value
                if not isinstance(text, str):
                    continue
                if text.startswith("_codecs"):  # makes bytes of any text
                    raise NotPlainError("has bytes among the example inputs")
                if code.name not in ("GLOBAL", "INST") and _QUOTED.intersection(text):
                    raise NotPlainError(f"has quotes or lines in a text among the example inputs: {text[:80]!r}")
    except (zipfile.BadZipFile, ValueError, LookupError, EOFError, NotImplementedError, OSError) as error:
        raise NotPlainError("is not as torch.export writes example inputs") from error
