"""The rules for an archive's manifest, record, config file and checkpoints, applied without running anything.

`verify` reports what they find, `extraction` refuses it. Problems of the container are in `Archive.issues`.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from archive_tool.errors import ArchiveError
from archive_tool.issues import Issue, Kind
from archive_tool.metadata.names import MANIFEST_NAME, name_problem
from archive_tool.verification import completeness
from archive_tool.weights import first_look, onnx_external, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archive_tool.metadata.manifest import Manifest
    from archive_tool.metadata.record import Record
    from archive_tool.pickles.budget import Budget
    from archive_tool.reading.archive import Archive
    from archive_tool.reading.containers import Entry


def static_issues(archive: Archive, *, complete: bool = True) -> Iterator[Issue]:
    """Find the problems that show in the manifest and the config file.

    Args:
        archive: an open one.
        complete: report also missing parts, and parts that cannot be served.
    """
    try:
        manifest = archive.manifest
        record = manifest.record if manifest else None
    except ArchiveError as error:
        message = f"{error.where}: {error.message}" if error.where == MANIFEST_NAME else error.message
        yield Issue(Kind.UNREADABLE, message, MANIFEST_NAME)
        return
    if manifest is None:
        yield from completeness.without_manifest(archive)
        return
    yield from _manifest_paths(manifest)
    if complete:
        yield from completeness.issues(archive, manifest)
    yield from _config_issues(archive, manifest, complete=complete)
    if record is not None:
        yield from _sample_paths(record)
        yield from _pretrained_issues(record)
    if record is None or not record.members:
        yield Issue(Kind.NOTE, "the manifest records no hashes of the members; only the archive's own checksums tell")
    else:
        yield from _record_issues(archive, record)


def _manifest_paths(manifest: Manifest) -> Iterator[Issue]:
    # The part after the colon is a function.
    values = {**manifest.model.files, "handler": (manifest.model.handler or "").split(":")[0]}
    for key, value in values.items():
        if value and (problem := name_problem(value)):
            yield Issue(Kind.UNSAFE, f"the manifest's model.{key} {value!r} {problem}", MANIFEST_NAME)


def _sample_paths(record: Record) -> Iterator[Issue]:
    for index, sample in enumerate(record.samples):
        for path in filter(None, (sample.input, sample.expected)):
            if problem := name_problem(path):
                message = f"the manifest's torchmar.samples[{index}] {path!r} {problem}"
                yield Issue(Kind.UNSAFE, message, MANIFEST_NAME)


def _pretrained_issues(record: Record) -> Iterator[Issue]:
    found = record.pretrained
    if found is None:
        return
    if problem := name_problem(found.path):
        yield Issue(Kind.UNSAFE, f"the manifest's torchmar.pretrained.path {found.path!r} {problem}", MANIFEST_NAME)
    elif found.remote_code:
        message = f"the pretrained model runs code of its own when it is loaded: the Python files in {found.path!r}"
        yield Issue(Kind.NOTE, message, found.path)


def _record_issues(archive: Archive, record: Record) -> Iterator[Issue]:
    sizes = {member.name: member.size for member in archive.members if member.name != MANIFEST_NAME}
    if (compiled := record.compiled) is not None:
        if problem := name_problem(compiled.path):
            yield Issue(
                Kind.UNSAFE, f"the manifest's torchmar.compiled.path {compiled.path!r} {problem}", MANIFEST_NAME
            )
        elif not any(name == compiled.path or name.startswith(f"{compiled.path}/") for name in sizes):
            yield Issue(Kind.ALTERED, f"the compiled model {compiled.path!r} is missing", compiled.path)
    for name in sorted(record.members.keys() - sizes.keys()):
        yield Issue(Kind.ALTERED, f"{name!r} is missing", name)
    for name in sorted(sizes.keys() - record.members.keys()):
        yield Issue(Kind.ALTERED, f"{name!r} was added: the manifest does not record it", name)
    for name in sorted(sizes.keys() & record.members.keys()):
        if sizes[name] != record.members[name].size:
            message = f"{name!r} was altered: it has {sizes[name]} bytes, recorded are {record.members[name].size}"
            yield Issue(Kind.ALTERED, message, name)


def hash_issues(archive: Archive, entry: Entry, sha256: str) -> Iterator[Issue]:
    """Compare the hash of a member's bytes with the manifest's record, if there is one.

    A size that differs has already been reported.
    """
    try:
        record = archive.manifest.record if archive.manifest else None
    except ArchiveError:
        return  # reported by `static_issues`
    wanted = record.members.get(entry.name) if record else None
    if wanted is not None and wanted.size == entry.size and wanted.sha256 != sha256:
        yield Issue(Kind.ALTERED, f"{entry.name!r} was altered: its SHA-256 is not the recorded one", entry.name)


def early_end_issues(archive: Archive, entry: Entry) -> Iterator[Issue]:
    """Report if TorchServe would find further members within one.

    Raises:
        UnreadableArchiveError: it is damaged.
    """
    if archive.ends_early(entry):
        message = f"{entry.name!r} ends before the directory says so: TorchServe takes the rest for further members"
        yield Issue(Kind.UNSAFE, message, entry.name)


def may_unpickle(archive: Archive, name: str, head: bytes, budget: Budget) -> bool:
    """Return whether `pickle_issues` must check a member; from its name and its first 512 bytes."""
    pickled = first_look.may_be_one(name, head, budget, weights=_is_serialized(archive, name))
    return pickled or onnx_external.may_be_one(name, head)


def _is_serialized(archive: Archive, name: str) -> bool:
    """Return whether a member is loaded as weights, whatever its name."""
    try:
        return archive.manifest is not None and archive.manifest.model.serialized_file == name
    except ArchiveError:
        return False


def pickle_issues(archive: Archive, name: str, stream: IO[bytes], budget: Budget) -> Iterator[Issue]:
    """Report what a member would run when it is loaded; see `weights.scan`.

    Args:
        archive: the member's.
        name: of the member.
        stream: its bytes, seekable, at their start.
        budget: of instructions, for all members of the archive.

    Raises:
        ArchiveError, OSError: the stream cannot be read.
    """
    for problem in scan.scan(stream, name, budget, weights=_is_serialized(archive, name)):
        yield Issue(Kind.UNSAFE, f"{name!r} {problem}", name, is_pickle=True)
    if onnx_external.may_be_one(name, _head(stream)):
        yield from onnx_external.issues(stream, name, archive.has, budget)


def _head(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read(1)


def head_issues(archive: Archive, entry: Entry, head: bytes) -> Iterator[Issue]:
    """Report what a member's first 512 bytes show; see `completeness.content_issues`."""
    try:
        manifest = archive.manifest
    except ArchiveError:
        manifest = None  # reported by `static_issues`
    yield from completeness.content_issues(manifest, entry.name, entry.size, head)


def _config_issues(archive: Archive, manifest: Manifest, *, complete: bool) -> Iterator[Issue]:
    name = manifest.model.config_file
    if not name or not archive.has(name):
        return
    from archive_tool.config import safe_yaml

    try:
        text = archive.read(name, safe_yaml.MAX_BYTES)
    except ArchiveError as error:
        yield Issue(Kind.UNREADABLE, error.message, name)
        return
    for line, tag in safe_yaml.foreign_tags(text):
        yield Issue(Kind.UNSAFE, f"{name!r}, line {line}: the tag {tag!r} makes an object of a program", name)
    try:
        root = safe_yaml.compose(text)
    except ValueError as error:
        yield Issue(Kind.UNREADABLE, f"{name!r} is {error}", name)
        return
    if not safe_yaml.is_mapping(root):
        message = f"{name!r} holds no settings: TorchServe fails to register the model"
        yield Issue(Kind.UNREADABLE, message, name)
    for path, value in safe_yaml.texts(root):
        yield from _config_path(name, path, value)
    if complete:
        yield from _default_answer(archive, name, root)


def _default_answer(archive: Archive, name: str, root: Any) -> Iterator[Issue]:
    from archive_tool.config import default_answer, safe_yaml

    try:
        document = safe_yaml.construct(root)
    except ValueError:
        return  # reported by its tags, or no default answer's fault
    answer = default_answer.read(document) if isinstance(document, dict) else None
    sizes = {member.name: member.size for member in archive.members}
    if answer is not None and (problem := default_answer.file_problem(answer, sizes)):
        yield Issue(Kind.UNREADABLE, f"{name!r}: {problem}", name)


def _config_path(name: str, path: str, value: str) -> Iterator[Issue]:
    if ".." in value.replace("\\", "/").split("/"):
        yield Issue(Kind.UNSAFE, f"{name!r}: {path} leads out of the archive: {value!r}", name)
    elif value.startswith(("/", "~/")):
        message = f"{name!r}: {path} names a place outside the archive, which must exist where it is served: {value!r}"
        yield Issue(Kind.NOTE, message, name)


def as_issue(error: ArchiveError, member: str | None = None) -> Issue:
    """Convert an error to an issue, of the kind with the same exit code."""
    kinds: dict[int, Any] = {3: Kind.UNREADABLE, 4: Kind.ALTERED, 5: Kind.UNSAFE}
    return Issue(kinds[error.exit_code], error.message, member)
