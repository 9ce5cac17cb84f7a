"""Requests in an archive, to try its model with: ``--sample FILE[=EXPECTED]``.

They are stored below ``MAR-INF/samples`` and recorded in the manifest under torchmar's own key. TorchServe's frontend
unpacks them like any other file and does not read them.
"""

from __future__ import annotations

import json
import mimetypes
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from archive_tool import files
from archive_tool.building.files import check_file
from archive_tool.metadata.names import MANIFEST_DIRECTORY, fold
from archive_tool.metadata.record import Record, Sample
from archive_tool.writing.plan import Member, Plan, with_members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archive_tool.building.report import Report

FOLDER: Final = f"{MANIFEST_DIRECTORY}/samples"
#: The frontend's default for ``max_request_size``; a larger request is refused with status 413.
MAX_REQUEST: Final = 6_553_500
_OPTION: Final = "--sample"
#: Media types that Python lacks: the tensor handler's forms, which have no registered names.
_MEDIA_TYPES: Final = {
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".safetensors": "application/safetensors",
    ".webp": "image/webp",  # Python has it from 3.13 on
}
_SUFFIX_LIMIT: Final = 16


@dataclass(frozen=True)
class GivenSample:
    """A sample that is to be stored.

    Attributes:
        name: of the input's file; its suffix is kept, and gives the content type.
        body: the request's body, or the file that holds it.
        expected: the answer's body; None if any answer is accepted.
        content_type: media type of the request's body; None to derive it from the name.
        tolerance: largest difference of an answer's numbers from the expected ones; see `record.Sample`.
    """

    name: str
    body: Path | bytes
    expected: bytes | None = None
    content_type: str | None = None
    tolerance: float | None = None


def content_type_of(name: str) -> str:
    """Return the media type of a file by its name, independent of this system's own table."""
    if known := _MEDIA_TYPES.get(Path(name).suffix.lower()):
        return known
    # A table of its own: the module's functions also read this system's files, and the archive would depend on them.
    # And a path, which a name as `data:text/x` is not: it would be taken for an address that says its type itself.
    return mimetypes.MimeTypes().guess_type(f"./{name}")[0] or "application/octet-stream"


def read(text: str, report: Report, *, option: str = _OPTION) -> GivenSample | None:
    """Parse ``FILE[=EXPECTED]``; return None for a problem, which goes to the report.

    EXPECTED is a file, or the answer itself. A FILE with ``=`` in its name is found, too.
    """
    file, expected = _split(text)
    path = Path(file)
    if not check_file(path, option, report):
        return None
    if expected is None:
        return GivenSample(path.name, path)
    answer = read_expected(expected, option, report)
    return None if answer is None else GivenSample(path.name, path, answer)


def _split(text: str) -> tuple[str, str | None]:
    if Path(text).is_file():
        return text, None
    places = [index for index, char in enumerate(text) if char == "="]
    at = next((index for index in places if Path(text[:index]).is_file()), places[0] if places else None)
    return (text, None) if at is None else (text[:at], text[at + 1 :])


def read_expected(text: str, option: str, report: Report) -> bytes | None:
    """Read an expected answer: a file's bytes, or the text itself; None after an error in the report."""
    path = Path(text)
    try:
        if path.is_file():
            return files.read_regular(path, files.MAX_BODY)
    except OSError as error:
        report.error(f"the file {path} cannot be read: {error.strerror}", where=option)
        return None
    if path.suffix.lower() in (".json", ".txt"):  # a typing error, not an answer
        report.error(f"the file {path} does not exist", where=option)
        return None
    return text.encode()


def add(plan: Plan, given: Sequence[GivenSample], report: Report) -> Plan:
    """Return the plan with the samples in it, and in the manifest's record."""
    if not given:
        return plan
    own = next((member.name for member in plan.members if fold(member.name).startswith(fold(FOLDER) + "/")), None)
    if own is not None:
        report.error(
            f"{own} is in the place of the samples", where=_OPTION, hint=f"leave {FOLDER} out of the extra files"
        )
        return plan
    record = plan.manifest.record or Record()
    members: list[Member] = []
    samples: list[Sample] = []
    for index, one in enumerate(given, start=len(record.samples)):
        folder = f"{FOLDER}/{index}"
        body = Member(f"{folder}/input{_suffix(one.name)}", one.body)
        members.append(body)
        answer = None
        if one.expected is not None:
            answer = Member(f"{folder}/expected{_kind(one.expected)}", one.expected)
            members.append(answer)
        kind = one.content_type or content_type_of(one.name)
        samples.append(Sample(body.name, kind, answer.name if answer else None, one.tolerance))
        _check_size(one, report)
    manifest = plan.manifest.with_record(replace(record, samples=(*record.samples, *samples)))
    return replace(with_members(plan, members), manifest=manifest)


def _suffix(name: str) -> str:
    """Return the suffix, if every system accepts it."""
    suffix = Path(name).suffix
    return suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= _SUFFIX_LIMIT else ""


def _kind(expected: bytes) -> str:
    try:
        text = expected.decode()
    except UnicodeDecodeError:
        return ".bin"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return ".txt"
    return ".json"


def _check_size(sample: GivenSample, report: Report) -> None:
    size = len(sample.body) if isinstance(sample.body, bytes) else sample.body.stat().st_size
    if size > MAX_REQUEST:
        report.warning(
            f"the sample {sample.name} has {size} bytes; TorchServe refuses requests of more than {MAX_REQUEST}",
            where=_OPTION,
            hint="max_request_size in config.properties sets another limit",
        )
