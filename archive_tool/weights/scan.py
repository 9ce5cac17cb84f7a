"""Finding files that would run code when they are loaded: checkpoints of torch, pickles, and archives of such.

Nothing is unpickled. The verdict is an allow-list, the one of ``torch.load(weights_only=True)`` and a few types of
numbers: what imports anything else is refused.

A file is taken for all that some loader would take it for: torch looks for a tar before it looks for a pickle, a zip
is found from its end, joblib unpacks what begins as packed. What is called as weights are and cannot be read to its end
as any of these is refused: what is not understood here may be understood by a loader.
"""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
import tempfile
import zipfile
from typing import IO, TYPE_CHECKING, Final, cast

from archive_tool.issues import Kind
from archive_tool.pickles import imports
from archive_tool.pickles.budget import Budget
from archive_tool.reading import zip_consistency
from archive_tool.reading.containers import MAX_MEMBERS, growth_problem
from archive_tool.reading.streams import DAMAGE, MAX_READ, window
from archive_tool.weights import formats, numpy_header, programs
from archive_tool.weights.first_look import HEAD, File, read
from archive_tool.weights.pickle_verdict import ACCEPT, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from archive_tool.weights.pickle_verdict import Problems

#: Archives in archives that are looked into.
_MAX_DEPTH: Final = 3
#: What a gzip is unpacked to, in memory.
_MAX_UNPACKED: Final = 64 << 20
#: A member that was unpacked is kept in memory up to this size.
_IN_MEMORY: Final = 16 << 20
#: What a member of a tar costs, in units of headers: its own blocks, and the values that are given for all members.
_TAR_UNITS: Final = 4
#: Members of a checkpoint of torch before 0.2.
_OLD_TORCH: Final = frozenset({"pickle", "storages", "tensors"})
_OLD_TORCH_PICKLES: Final = 5
#: What no loader takes for a pickle.
_HARMLESS: Final = frozenset(
    {
        formats.Format.AOT_LIBRARY,
        formats.Format.EMPTY,
        formats.Format.LFS_POINTER,
        formats.Format.ONNX,
        formats.Format.SAFETENSORS,
        formats.Format.SHARED_LIBRARY,
    }
)
_NOT_KNOWN: Final = (
    "is called as weights are, or is the serialized file, and cannot be read to its end as anything known, so nobody "
    f"knows what it runs: save it again as a state dict or as safetensors, {ACCEPT}"
)


def scan(stream: IO[bytes], name: str, budget: Budget | None = None, *, weights: bool = False) -> Iterator[str]:
    """Yield what a file would run when it is loaded, each as the end of a sentence that begins with its name.

    Args:
        stream: seekable, at its start.
        name: of the file; its suffix counts.
        budget: of instructions; by default one for this file.
        weights: it is loaded as such whatever it is called.

    Raises:
        ArchiveError, OSError: the stream itself cannot be read.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    budget = budget or Budget(size)
    file = File(stream, name, size, weights=weights)
    if file.may_be_loaded(budget):
        yield from dict.fromkeys(_Scanner(budget).scan(file, _MAX_DEPTH))


class _Scanner:
    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def scan(self, file: File, depth: int) -> Iterator[str]:
        """Take a file for everything that a loader could take it for."""
        if file.to_the_end and (packing := file.packing()):
            yield f"is packed by {packing} and is not looked into: save it uncompressed, {ACCEPT}"
            return
        tar, gz = file.is_tar, file.is_gzip
        zipped = file.begins_as_zip or (file.to_the_end and file.ends_as_zip())
        if depth == 0 and (tar or gz or zipped):
            yield f"holds archives in archives, more than {_MAX_DEPTH} deep"
            return
        told = yield from self._pickles(file)
        if tar:
            told = (yield from self._tar(file, depth)) or told
        if gz:
            told = (yield from self._gzip(file, depth)) or told
        if zipped:
            told = (yield from self._zip(file, depth, embedded=told)) or told
        if not told and file.weights and formats.sniff(file.stream) not in _HARMLESS:
            yield _NOT_KNOWN

    def _pickles(self, file: File) -> Problems:
        """Look into pickles and arrays of numpy, one after the other."""
        if not file.unmarked and not file.is_marked:
            return False
        position, told = 0, False
        for _ in range(imports.MAX_PICKLES):
            if position == file.size:
                return position > 0
            file.stream.seek(position)
            try:
                array = numpy_header.read(file.stream, self._budget)
            except numpy_header.TooManyError as error:
                yield f"holds arrays of numpy that are not all read: {error}"
                return True
            except numpy_header.NotAnArrayError as error:
                if position == 0 and file.head.startswith(numpy_header.MAGIC):
                    yield f"is an array of numpy that cannot be read: {error}"
                    return True
                file.stream.seek(position)
                found = imports.imports(file.stream, self._budget)
                told = (yield from judge(file, position, found, self._budget)) or told
                if position == 0 and found.count >= _OLD_TORCH_PICKLES:
                    # The numbers of such a file stand behind its pickles.
                    told = told or formats.sniff(file.stream) is formats.Format.LEGACY_PICKLE
                if found.count == 0:
                    break
                position += found.end
            else:
                # Behind a header come pickled objects, which the next turn looks into, or numbers.
                position += array.start + (array.size or 0)
                if position > file.size:
                    break
        return told

    def _tar(self, file: File, depth: int) -> Problems:
        """Look into a checkpoint of torch before 0.2, which is a tar with pickles in it; or into any other tar."""
        names = set()
        try:
            file.stream.seek(0)
            short = _Short(file.stream, self._budget)
            with tarfile.open(fileobj=short, mode="r:") as archive:  # type: ignore[call-overload]
                for count, info in enumerate(archive):
                    if count >= MAX_MEMBERS or not self._budget.read_headers(_TAR_UNITS + len(archive.pax_headers)):
                        yield f"is a tar of more than {MAX_MEMBERS} members, or holds too much"
                        return True
                    if info.size < 0:  # tarfile would go back, and find the same members for ever
                        yield f"is a tar with a member {info.name!r} of {info.size} bytes"
                        return True
                    names.add(info.name)
                    if file.weights and not (info.isreg() or info.isdir()):
                        yield f"is a tar with a link or a special file, {info.name!r}"
                    member = archive.extractfile(info) if info.isreg() else None
                    if member is not None:
                        # Whatever it is called: another member may be a link to it.
                        short.headers = False
                        inner = File(member, info.name, info.size, unmarked=True)
                        yield from _within(info.name, self.scan(inner, depth - 1))
                        short.headers = True
                file.stream.seek(archive.offset)
                while chunk := file.stream.read(MAX_READ):
                    if file.weights and chunk.strip(b"\0"):
                        yield "is a tar that goes on after its end"
                        break
        except _TooMuchError as error:
            yield f"is a tar that {error}"
            return True
        except DAMAGE as error:
            if not file.weights:
                return False
            yield f"is a tar that cannot be read, so nobody knows what it runs: {_reason(error)}"
        if old := sorted(names & _OLD_TORCH):
            yield (
                f"is a checkpoint of torch before 0.2, by its member {old[0]!r}; its pickles stand between numbers "
                f"and are not looked into: save it again with a later torch, {ACCEPT}"
            )
        return True

    def _gzip(self, file: File, depth: int) -> Problems:
        name = file.name[:-3] if file.name.lower().endswith(".gz") else file.name
        try:
            file.stream.seek(0)
            with gzip.GzipFile(fileobj=file.stream, mode="rb") as unpacked:
                most = min(_MAX_UNPACKED, self._budget.unpacked)
                data = read(unpacked, HEAD)  # type: ignore[arg-type]
                if not file.weights and not File(io.BytesIO(data), name, len(data)).may_be_loaded(self._budget):
                    return False
                data += read(unpacked, most + 1 - len(data))  # type: ignore[arg-type]
        except DAMAGE as error:
            if file.weights:
                yield f"is a gzip that cannot be read, so nobody knows what it runs: {_reason(error)}"
            return file.weights
        if problem := growth_problem(len(data), file.size):
            yield problem
            return True
        self._budget.unpack(min(len(data), most))
        if len(data) > most and (file.weights or most < _MAX_UNPACKED):
            yield f"holds more than {most >> 20} MiB and is not looked into: save it uncompressed, {ACCEPT}"
            return True
        inner = File(io.BytesIO(data), name, len(data), weights=file.weights)
        yield from self.scan(inner, depth - 1)
        return True

    def _zip(self, file: File, depth: int, *, embedded: bool) -> Problems:
        """Look into a checkpoint of torch, which is a zip with pickles in it; or into any other zip."""
        begins = file.begins_as_zip
        try:
            file.stream.seek(0)
            with zip_consistency.open_zip(file.stream, min(MAX_MEMBERS, self._budget.headers)) as archive:
                infos = archive.infolist()
                self._budget.read_headers(len(infos) + 1)
                if sum(info.compress_size for info in infos) > file.size:
                    yield "is a zip whose members lie over each other"
                    return True
                # torch's own reader could see other members than those that we look at.
                strict = file.weights or any(info.orig_filename.lower().endswith("data.pkl") for info in infos)
                strict = strict or programs.is_program(archive.namelist())
                if strict and (begins or not embedded):
                    for issue in zip_consistency.issues(file.stream, archive):
                        if issue.kind is Kind.UNSAFE:
                            yield f"is a zip that readers disagree on: {issue.message}"
                if strict and (same := programs.colliding(archive.namelist())):
                    yield f"has members whose names differ by case only, of which loaders take either: {same[0]!r}"
                yield from self._members(archive, infos, depth)
                return True
        except zip_consistency.TooManyEntriesError as error:
            yield f"is a zip that {error}"
            return True
        except DAMAGE as error:
            if file.weights and begins:
                yield f"is a zip that cannot be read, so nobody knows what it runs: {_reason(error)}"
            return file.weights and begins

    def _members(self, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], depth: int) -> Iterator[str]:
        # torch takes the folder of the first member for the checkpoint, and what has constants for TorchScript.
        root = infos[0].orig_filename.split("/")[0] + "/" if infos else ""
        names = {info.orig_filename for info in infos}
        script = f"{root}constants.pkl" in names and any(name.startswith(f"{root}code/") for name in names)
        # pandas loads what is alone whatever it is called; torch.export called its pickles .json before torch 2.7.
        unmarked = len(infos) == 1
        small = [info.filename for info in infos if not growth_problem(info.file_size, info.compress_size)]
        program = programs.Members()
        try:
            program = programs.look_into(archive, small)
        except DAMAGE as error:  # it does not hide what the others are
            yield f"is a program that cannot be read, so nobody knows what it runs: {_reason(error)}"
        for place, what in program.problems:
            yield f"holds {place!r}, which {what}"
        for info in infos:
            name = info.orig_filename
            if issue := zip_consistency.name_issue(info):
                yield f"is a zip that readers disagree on: {issue.message}"
            if "\0" in name:
                yield f"is a zip that readers disagree on: to some of them {name!r} ends at its NUL"
            if problem := growth_problem(info.file_size, info.compress_size):
                yield f"has a member {name!r} that {problem}"
                continue
            told = functools.partial(
                File,
                weights=name.lower() in program.pickles,
                unmarked=unmarked,
                torchscript=script and name.startswith(root),
            )
            try:
                yield from _within(name, self._member(archive, info, told, depth))
            except DAMAGE as error:  # it does not hide what the others are
                yield f"holds {name!r}, which cannot be read, so nobody knows what it runs: {_reason(error)}"

    def _member(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, told: Callable[..., File], depth: int
    ) -> Iterator[str]:
        """Look into a member of a zip; a packed one is unpacked once, so that going to its end costs nothing."""
        name = info.orig_filename
        with archive.open(info) as member:
            head = read(member, HEAD)
            if not told(io.BytesIO(head), name, info.file_size).may_be_loaded(self._budget):
                return
            if info.compress_type == zipfile.ZIP_STORED:
                if info.compress_size != info.file_size:
                    yield f"is stored in {info.compress_size} bytes and has {info.file_size}"
                    return
                parent = cast("IO[bytes]", archive.fp)
                stream = window(parent, zip_consistency.data_offset(parent, info), info.file_size, closes=False)
            elif self._budget.unpack(info.file_size):
                stream = cast("IO[bytes]", tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 - closed below
                stream.write(head)
                while chunk := member.read(MAX_READ):
                    stream.write(chunk)
                stream.seek(0)
            else:
                yield f"is packed, with all before it, to more than is unpacked here: save it uncompressed, {ACCEPT}"
                return
        with stream:
            yield from self.scan(told(stream, name, info.file_size), depth - 1)


class _TooMuchError(tarfile.ReadError):
    """More headers than the budget allows."""


class _Short:
    """A stream for tarfile, which reads the whole of a header that says it is long."""

    def __init__(self, stream: IO[bytes], budget: Budget) -> None:
        self._stream = stream
        self._budget = budget
        self.headers = True  # what is read are headers, not what a member holds
        self.tell = stream.tell
        self.seek = stream.seek
        self.seekable = stream.seekable

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= MAX_READ:
            raise tarfile.ReadError(f"a header has more than {MAX_READ} bytes")
        if self.headers and not self._budget.read_headers(count // tarfile.BLOCKSIZE):
            raise _TooMuchError("holds too many headers, or too long ones")
        return self._stream.read(count)


def _within(name: str, problems: Iterator[str]) -> Iterator[str]:
    for problem in problems:
        yield f"holds {name!r}, which {problem}"


def _reason(error: BaseException) -> str:
    return str(error).strip("'\"") or type(error).__name__
