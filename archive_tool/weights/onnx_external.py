"""The files beside an ONNX model that hold its numbers: where they are, and whether they are in the archive.

A tensor of a model may have its numbers in another file, at a path relative to the model's. The loader reads that file,
whatever it is. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import posixpath
from typing import IO, TYPE_CHECKING, Final

from archive_tool.issues import Issue, Kind
from archive_tool.metadata.names import name_problem
from archive_tool.weights.onnx import MAX_FIELDS, Fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from archive_tool.pickles.budget import Budget

#: The fields of a message that lead to tensors, by number.
_INSIDE: Final = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_KEY: Final = 1
_VALUE: Final = 2
#: The key of a path; a model without these letters has no such tensors.
_LOCATION: Final = b"location"
_CHUNK: Final = 1 << 20
#: Instructions of a pickle that take as long as a field.
_COST: Final = 10
_MAX_TEXT: Final = 4096


def may_be_one(name: str, head: bytes) -> bool:
    """Return whether a file may be an ONNX model, from its name and its first bytes: loaders go by the name."""
    return name.lower().endswith(".onnx") or head[:1] == b"\x08"


def issues(stream: IO[bytes], name: str, is_member: Callable[[str], bool], budget: Budget) -> Iterator[Issue]:
    """Find the files that a model needs and that are outside the archive, or missing.

    Args:
        stream: seekable, of the model.
        name: of the model in the archive.
        is_member: whether the archive has a member of a name.
        budget: of steps, for all members of the archive.

    Raises:
        ArchiveError, OSError: the stream cannot be read.
    """
    if not _has(stream, _LOCATION):
        return
    reader = Fields(stream, min(MAX_FIELDS, budget.left // _COST))
    try:
        found = sorted(_locations(reader, stream.seek(0, 2)))
    except ValueError as error:
        if name.lower().endswith(".onnx"):
            message = f"{name!r} cannot be read as an ONNX model, so nobody knows which files it wants: {error}"
            yield Issue(Kind.UNREADABLE, message, name)
        return
    finally:
        budget.left -= reader.count * _COST
    for location in found:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), location))
        if problem := name_problem(path) or (name_problem(location) if location.startswith("/") else None):
            yield Issue(Kind.UNSAFE, f"{name!r} keeps numbers in {location!r}, which {problem}", name)
        elif not is_member(path):
            message = f"{name!r} keeps numbers in {location!r}, which is not in the archive"
            yield Issue(Kind.UNREADABLE, message, name)


def _has(stream: IO[bytes], text: bytes) -> bool:
    stream.seek(0)
    before = b""
    while chunk := stream.read(_CHUNK):
        if text in before + chunk:
            return True
        before = chunk[-len(text) :]
    return False


def _locations(reader: Fields, size: int) -> set[str]:
    """Return the paths that tensors anywhere in a model name.

    Raises:
        ValueError: the file is not a protobuf message, or has too many fields.
    """
    found: set[str] = set()
    todo = [("model", 0, size)]
    while todo:
        kind, start, end = todo.pop()
        if kind == "tensor":
            found |= _of_tensor(reader, start, end)
            continue
        inside = _INSIDE[kind]
        todo += [
            (inside[field], begin, stop)
            for field, wire, begin, stop in reader.fields(start, end)
            if wire == 2 and field in inside
        ]
    return found


def _of_tensor(reader: Fields, start: int, end: int) -> set[str]:
    paths, external = set(), False
    for field, wire, begin, stop in reader.fields(start, end):
        if field == _DATA_LOCATION and wire == 0:
            external = reader.varint(begin)[0] == 1
        elif field == _EXTERNAL_DATA and wire == 2:
            parts = {
                number: reader.read(place, min(after - place, _MAX_TEXT))
                for number, kind, place, after in reader.fields(begin, stop)
                if kind == 2
            }
            if parts.get(_KEY) == _LOCATION:
                paths.add(parts.get(_VALUE, b"").decode("utf-8", "surrogateescape"))
    return paths if external else set()
