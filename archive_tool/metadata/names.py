"""Names inside an archive, and which of them are legal.

An archive is unpacked by programs on other machines: TorchServe's Java frontend, our reader, a person with unzip. So a
member's name must mean the same file below the target folder on each of them, or it is refused.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

from archive_tool.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MANIFEST_DIRECTORY: Final = "MAR-INF"
MANIFEST_NAME: Final = "MAR-INF/MANIFEST.json"

#: The suffix of each archive format in a model store. TorchServe takes ".mar" for a zip, anything else for tar.gz.
SUFFIXES: Final = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
RUNTIMES: Final = ("python", "python3", "LSP")

#: The handlers that are linked into TorchServe's C++ backend.
LSP_HANDLERS: Final = frozenset({"BaseHandler", "TorchScriptHandler"})

#: Directories that torch-model-archiver leaves out wherever they are; it also leaves out those that begin with a dot.
SKIPPED_DIRECTORIES: Final = frozenset({"__MACOSX", "__pycache__"})

MAX_NAME_BYTES: Final = 1024
MAX_PART_BYTES: Final = 255  # NAME_MAX of every common file system
_SHOWN_NAME: Final = 60

#: A model's name is that of its archive and, with its version, a part of the URLs under which it is served.
MAX_MODEL_NAME: Final = 200
# A commit of a model in the cache of the Hub.
_CACHED = re.compile(r"/models--(?:[^/]+--)?([^/]+)/snapshots/[^/]+$")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
# Windows opens a device for these, with any suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


#: The hint for a name or a version that cannot be used.
MODEL_NAME_HINT: Final = "use letters, digits, '_', '-' and '.', and start with a letter or a digit"
VERSION_HINT: Final = "use a version such as 1.0 or 2024-05-01"


def model_name_problem(name: str) -> str | None:
    """Say why a model cannot have this name, or return None if it can; the rule is torch-model-archiver's.

    It is applied when an archive is written and when one is read, and to the names that a server is given.
    """
    if len(name) > MAX_MODEL_NAME:
        return f"is longer than {MAX_MODEL_NAME} characters"
    return None if _MODEL_NAME.fullmatch(name) else f"is no name of a model: {MODEL_NAME_HINT}"


def name_of_folder(folder: Path) -> str:
    """Return the name of a model that is called as its folder is."""
    whole = folder.resolve()
    cached = _CACHED.search(whole.as_posix())
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", cached[1] if cached else whole.name).lstrip("_.-")
    return name[:MAX_MODEL_NAME] or "model"


def version_problem(version: str) -> str | None:
    """Say why a model cannot have this version, or return None if it can.

    TorchServe takes any text. A version that fits into no URL of its APIs could not be called or removed.
    """
    if len(version.encode("utf-8", "surrogatepass")) > MAX_MODEL_NAME:
        return f"is longer than {MAX_MODEL_NAME} bytes"
    if not version.strip():
        return "is empty"
    if not version.isprintable():
        return "holds what cannot be printed"
    if "/" in version or "\\" in version:
        return "holds a slash"
    return "leads elsewhere" if version in (".", "..") else None


def shown_name(name: str) -> str:
    """Return a name of any length and characters, shortened for a message."""
    return ascii(name) if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]!a}... ({len(name)} characters)"


def check_model_name(name: str) -> None:
    """Refuse a model name; see `model_name_problem`.

    Raises:
        BuildError: it cannot be used.
    """
    if model_name_problem(name):
        long = f", which is longer than {MAX_MODEL_NAME} characters," if len(name) > MAX_MODEL_NAME else ""
        raise BuildError(f"the model name {shown_name(name)}{long} cannot be used", hint=MODEL_NAME_HINT)


def check_version(version: str) -> None:
    """Refuse a version of a model; see `version_problem`.

    Raises:
        BuildError: it cannot be used.
    """
    if problem := version_problem(version):
        raise BuildError(f"the version {shown_name(version)} {problem}", hint=VERSION_HINT)


def is_skipped_directory(name: str) -> bool:
    """Return whether a directory of this name, with its content, stays out of an archive."""
    return name in SKIPPED_DIRECTORIES or name.startswith(".")


def name_problem(name: str) -> str | None:
    """Say why a member cannot have this name, or return None if it can.

    A legal name is a relative path with ``/`` between its parts, in its shortest form.
    """
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    if not name:
        return "is empty"
    if length > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "holds a control character"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    if _DRIVE.match(name):
        return "starts with a drive letter"
    for part in name.split("/"):
        if problem := _part_problem(part):
            return problem
    return None


def _part_problem(part: str) -> str | None:
    if part == "..":
        return "leads out of the archive ('..')"
    if part in ("", "."):
        return "has an empty part or a '.' part"
    # Windows drops trailing dots and blanks, so ".. " would be ".." there.
    if not part.strip(". "):
        return "has a part of dots and blanks only"
    if len(part.encode("utf-8")) > MAX_PART_BYTES:
        return f"has a part longer than {MAX_PART_BYTES} bytes"
    if _DEVICE.fullmatch(part.split(".")[0].rstrip(" ")):
        return "is the name of a device on Windows"
    return None


def fold(name: str) -> str:
    """Map names to one key if some file system takes them for the same file (case, composed accents)."""
    if len(name) > MAX_NAME_BYTES:
        return name  # no file system has it, and composing thousands of accents takes seconds
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def collisions(names: Iterable[str]) -> list[str]:
    """Describe each name that conflicts with another: a duplicate, or a file where a folder is needed."""
    problems = []
    seen: dict[str, str] = {}
    for name in names:
        key = fold(name)
        if key not in seen:
            seen[key] = name
        elif seen[key] == name:
            problems.append(f"{name!r} is there twice")
        else:
            problems.append(f"{seen[key]!r} and {name!r} are one file where case does not count")
    above = _files_above(seen)
    problems += [f"{seen[key]!r} needs a folder where {seen[above[key]]!r} is a file" for key in seen if key in above]
    return problems


def _files_above(keys: Iterable[str]) -> dict[str, str]:
    """Map each name that lies below another one to the nearest such.

    In sorted order, each follows the names that it may lie below.
    """
    found: dict[str, str] = {}
    around: list[str] = []
    # A slash sorts before all other characters: otherwise "a/b" would come after "a.py".
    for key in sorted(keys, key=lambda key: key.replace("/", "\0")):
        while around and not key.startswith(f"{around[-1]}/"):
            around.pop()
        if around:
            found[key] = around[-1]
        around.append(key)
    return found
