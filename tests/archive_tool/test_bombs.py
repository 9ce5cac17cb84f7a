"""Each reader of foreign input, given what would keep it busy: an answer within a bound of steps.

A bound of time stands behind, generous, for a machine may be busy. What is counted is what would take the time.
"""

import ast
import gzip
import io
import itertools
import json
import struct
import tarfile
import zipfile

import pytest
import yaml

from archive_tool import json_text
from archive_tool.analysis import python_source, requirements
from archive_tool.building.mms import read_signature
from archive_tool.config import safe_yaml, schema
from archive_tool.errors import ArchiveError, BuildError
from archive_tool.inspection.describe import describe
from archive_tool.issues import Kind
from archive_tool.metadata.manifest import Manifest
from archive_tool.metadata.names import collisions
from archive_tool.pickles import budget
from archive_tool.projects.project_file import read as read_project
from archive_tool.reading import containers, zip_consistency
from archive_tool.reading.archive import open_archive
from archive_tool.verification.verify import verify
from archive_tool.weights import onnx, tensors
from archive_tool.weights.formats import Format, sniff
from serving.worker.loading.failures import ConfigError
from serving.worker.loading.settings import read_config, read_manifest

from .hostile import Member, archive, zip_of

pytestmark = pytest.mark.timeout(300)

YAML = {
    "brackets": b"a: " + b"[" * 20_000,
    "closed brackets": b"a: " + b"[" * 20_000 + b"]" * 20_000,
    "braces": b"a: " + b"{a: " * 20_000,
    "dashes": b"- " * 60_000,
    "questions": b"? " * 60_000,
    "blocks": b"".join(b" " * depth + b"a:\n" for depth in range(600)),
    "aliases": b"a: &a 1\nb: [" + b"*a, " * 60_000 + b"]",
    "anchors": b"a: [" + b"".join(b"&a%d x, " % number for number in range(20_000)) + b"]",
    "scalars": b"a: [" + b"b, " * 80_000 + b"]",
    "keys": b"".join(b"k%d: v\n" % number for number in range(20_000)),
    "sixties": b"a: 1" + b":1" * 100_000,
    "digits": b"a: " + b"1" * 200_000,
    "length": b"a: " + b"x" * (1 << 20),
    "comment": b"a: 1\n#" + b"x" * (1 << 20),
    "merges": b"a: &a {" + b"".join(b"k%d: 1, " % number for number in range(2000)) + b"}\nb:\n" + b"- {<<: *a}\n" * 20,
}


@pytest.fixture
def events(monkeypatch):
    """Count the steps that PyYAML makes: its parser's, on which the composer's depend."""
    counted = [0]
    really = yaml.SafeLoader.get_event

    def get_event(loader):
        counted[0] += 1
        return really(loader)

    monkeypatch.setattr(yaml.SafeLoader, "get_event", get_event)
    return counted


def project_file(text, folder):
    (folder / "torchmar.yaml").write_bytes(text)
    return read_project(folder)


def of_worker(text, folder):
    (folder / "c.yaml").write_bytes(text)
    return read_config(folder, {"model": {"configFile": "c.yaml"}})


def verified(text, folder):
    document = {"runtime": "python", "model": {"modelName": "m", "handler": "base_handler", "configFile": "c.yaml"}}
    path = folder / "m.mar"
    path.write_bytes(archive(Member(b"c.yaml", text), manifest=json.dumps(document).encode()))
    assert verify(path).kind is Kind.UNREADABLE
    with open_archive(path) as opened:
        describe(opened, opened.manifest)


YAML_READERS = {
    "compose": (lambda text, _: safe_yaml.construct(safe_yaml.compose(text)), safe_yaml.NotYamlError),
    "validate": (lambda text, _: schema.validate(text), None),
    "project": (project_file, BuildError),
    "worker": (of_worker, ConfigError),
    "verify and inspect": (verified, None),
}


def yaml_case(reader, bomb):
    """Return parameters; other readers add little to the first two, which one bomb of each kind shows."""
    repeats = reader not in ("compose", "validate") and bomb not in ("brackets", "keys", "length", "anchors")
    return pytest.param(bomb, reader, id=f"{reader}-{bomb}", marks=[pytest.mark.slow] if repeats else [])


@pytest.mark.parametrize(("bomb", "reader"), list(itertools.starmap(yaml_case, itertools.product(YAML_READERS, YAML))))
def test_yaml(bomb, reader, events, tmp_path):
    if (bomb, reader) in (("merges", "verify and inspect"), ("digits", "verify and inspect")):
        pytest.skip("verify makes no values, so these cost it nothing")
    if reader == "verify and inspect" and bomb == "sixties":
        pytest.skip("verify makes no values, so these cost it nothing")
    read, refused = YAML_READERS[reader]
    if refused is None:
        read(YAML[bomb], tmp_path)
    else:
        with pytest.raises(refused):
            read(YAML[bomb], tmp_path)
    passes = 4
    assert events[0] <= passes * (safe_yaml.MAX_EVENTS + 1)
    if bomb in ("brackets", "closed brackets", "braces", "dashes", "questions", "blocks"):
        assert events[0] <= passes * 4 * safe_yaml.MAX_DEPTH


def test_paths_of_long_keys():
    text = b"?  " + b"k" * 100_000 + b"\n: {" + b"".join(b"a%d: 1, " % number for number in range(2000)) + b"}\n"
    found = safe_yaml.texts(safe_yaml.compose(text))
    assert sum(len(path) for path, _ in found) < 1_000_000


JSON = {
    "brackets": b'{"model": ' + b"[" * 100_000,
    "lists": b'{"model": [' + b"[]," * 4_000_000 + b"1]}",
    "numbers": b'{"model": [' + b"0," * 6_000_000 + b"1]}",
    "digits": b'{"model": ' + b"1" * 1_000_000 + b"}",
    "length": b'{"model": "' + b"x" * (20 << 20) + b'"}',
    "depth": b'{"model":' * 400 + b"1" + b"}" * 400,
}


def manifest_of_worker(text, folder):
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF/MANIFEST.json").write_bytes(text)
    return read_manifest(folder)


def header(text, _):
    stream = io.BytesIO(struct.pack("<Q", len(text)) + text)
    if sniff(stream) is Format.SAFETENSORS or tensors.read(stream, Format.SAFETENSORS) is not None:
        raise AssertionError("it was read")
    raise ValueError


JSON_READERS = {
    "manifest": (lambda text, _: Manifest.from_json(text), ArchiveError),
    "worker": (manifest_of_worker, ConfigError),
    "signature": (lambda text, _: read_signature(text, "signature.json"), BuildError),
    "safetensors": (header, ValueError),
}


@pytest.mark.parametrize("bomb", JSON)
@pytest.mark.parametrize("reader", JSON_READERS)
def test_json(bomb, reader, tmp_path, monkeypatch):
    made = [0]
    really = json_text._object

    def counted(pairs):
        made[0] += 1
        return really(pairs)

    monkeypatch.setattr(json_text, "_object", counted)
    read, refused = JSON_READERS[reader]
    with pytest.raises(refused):
        read(JSON[bomb], tmp_path)
    assert made[0] <= 1000


def test_requirements_that_go_on_and_on():
    found = list(requirements.parse("a\\\n" * 500_000))
    assert [line.problem for line in found] == ["it is longer than 4000 characters"]
    found = list(requirements.parse("a\n" * 500_000))
    assert len(found) == requirements.MAX_LINES + 1
    assert "more than 2000 requirements" in found[-1].problem
    depth = 4000 // 2 - 20
    (line,) = requirements.parse(f"a; {'(' * depth}python_version>'3'{')' * depth}")
    assert line.problem


def test_sources_that_end_the_recursion_of_their_reader():
    long = python_source.names(python_source.parse_bytes(b"if a: b = 1\n" + b"elif a: c = 1\n" * 1500, "x.py"))
    assert long.bound == {"b", "c"}
    chain = "if a: pass\n" + "elif a: pass\n" * 5000
    deep = "a = " + "-" * 50_000 + "1"
    for text in (chain, deep, "(" * 50_000, "a" + ".b" * 50_000, "a" + "+a" * 50_000):
        try:
            tree = python_source.parse_bytes(text.encode(), "x.py")
            python_source.names(tree)
        except python_source.SourceError:
            pass


class Steps(zipfile.ZipInfo):
    """An entry of a directory, counted."""

    count = 0

    def __init__(self, *args, **named):
        Steps.count += 1
        super().__init__(*args, **named)


def directory(count):
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    body = entry * count
    return body + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(body), 0, 0)


@pytest.mark.parametrize("reader", ["verify", "inspect", "sniff", "tensors"])
def test_directories_of_zips(reader, tmp_path, monkeypatch):
    data = b"PK\3\4" + directory(zip_consistency.MAX_ENTRIES + 1)
    monkeypatch.setattr(zipfile, "ZipInfo", Steps)
    Steps.count = 0
    path = tmp_path / "m.mar"
    path.write_bytes(data)
    if reader == "verify":
        (issue,) = verify(path).issues
        assert issue.kind is Kind.UNSAFE
        assert "has more than 100000 members" in issue.message
    elif reader == "inspect":
        with pytest.raises(ArchiveError, match="more than 100000 members"), open_archive(path, allow_unsafe=True):
            pass
    elif reader == "sniff":
        assert sniff(io.BytesIO(data)) is Format.UNKNOWN
    else:
        assert tensors.read(io.BytesIO(data), Format.STATE_DICT) is None
    assert Steps.count == 0


def test_a_directory_is_not_read_without_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_consistency, "MAX_DIRECTORY", 1000)
    with pytest.raises(zip_consistency.TooManyEntriesError, match="more than 1000 bytes"):
        zip_consistency.open_zip(io.BytesIO(directory(100)))


def blocks(*parts):
    return b"".join(part.ljust(-(-len(part) // 512) * 512, b"\0") for part in parts)


def tar_header(name, size, kind):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def records(count):
    found = []
    for number in range(count):
        text = f" key{number:06}=v\n"
        found.append(f"{len(text) + 2}{text}".encode())
    return b"".join(found)


def pax(count, kind=b"x"):
    data = records(count)
    return blocks(tar_header("p", len(data), kind), data)


def member(number=0):
    return tar_header(f"m/{number}", 0, tarfile.REGTYPE)


TARS = {
    "headers of one member": lambda: pax(20_000) * 200 + member(),
    "values for all members": lambda: pax(20_000, b"g") + b"".join(member(number) for number in range(20_000)),
    "headers of each member": lambda: b"".join(pax(5000) + member(number) for number in range(60)),
    "sparse without end": lambda: blocks(sparse()) + (b"1".rjust(12, b"0") * 42 + b"\1" + bytes(7)) * 50_000,
}


def sparse():
    info = tarfile.TarInfo("m/s")
    info.type = tarfile.GNUTYPE_SPARSE
    data = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    data[482] = 1
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    return bytes(data)


@pytest.mark.parametrize("which", TARS)
def test_headers_of_tars(which, tmp_path, monkeypatch):
    read = [0]
    really = containers.Gzip.read

    def counted(stream, size=-1, /):
        data = really(stream, size)
        read[0] += len(data)
        return data

    path = tmp_path / "m.tar.gz"
    path.write_bytes(gzip.compress(TARS[which]() + bytes(1024), 1))
    monkeypatch.setattr(containers.Gzip, "read", counted)
    (issue,) = verify(path).issues
    assert issue.kind in (Kind.UNREADABLE, Kind.UNSAFE)
    assert read[0] <= 3 << 20


def test_many_members_of_a_tar_are_listed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_MEMBERS", 1000)
    path = tmp_path / "m.tar.gz"
    path.write_bytes(gzip.compress(b"".join(member(number) for number in range(3000)) + bytes(1024), 1))
    made = itertools.count()
    really = containers.TarContainer._entry
    monkeypatch.setattr(containers.TarContainer, "_entry", lambda *args: (next(made), really(*args))[1])
    (issue,) = verify(path).issues
    assert issue.kind is Kind.UNSAFE
    assert next(made) == 1000


def test_names_that_lie_in_each_other():
    class Name(str):
        """A text whose comparisons with the beginnings of others are counted."""

        compared = 0

        def startswith(self, *args):
            Name.compared += 1
            return super().startswith(*args)

    names = ["/".join("a" * depth) for depth in range(1, 500)]
    assert len(collisions(names)) == 498
    assert len(collisions(f"{number}/{'a/' * 400}b" for number in range(5000))) == 0
    accents = "a" + "\u0301\u0316" * 100_000
    assert collisions([accents, accents + "b"]) == []


def test_fields_of_onnx():
    data = b"\x08\x08" * 600_000
    reader = onnx.Fields(io.BytesIO(data), onnx.MAX_FIELDS)
    with pytest.raises(ValueError, match="too many fields"):
        list(reader.fields(0, len(data)))
    assert tensors.read(io.BytesIO(b"\x08\x08" * 600_000), Format.ONNX) is None


def test_an_archive_of_many_members_is_shown_in_time(tmp_path, torchmar, monkeypatch):
    """The table of all rows took most of a minute."""
    from archive_tool.cli import inspect

    monkeypatch.setattr(inspect, "_MEMBERS_SHOWN", 10)
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as made:
        for number in range(50):
            made.writestr(f"m{number}", "")
    shown = torchmar("inspect", path)
    assert shown.returncode == 0
    assert "and 40 more: --json lists all" in shown.stdout
    assert "m10" not in shown.stdout
    assert len(json.loads(torchmar("inspect", path, "--json").stdout)["members"]) == 50


def counted(monkeypatch, owner, name, cost):
    """Sum up what the calls of a method cost, from what they return."""
    total = [0]
    really = getattr(owner, name)

    def call(*args, **named):
        result = really(*args, **named)
        total[0] += cost(result)
        return result

    monkeypatch.setattr(owner, name, call)
    return total


def refused(folder, *members):
    path = folder / "m.mar"
    path.write_bytes(archive(Member(b"h.py", b""), *members))
    issues = [issue for issue in verify(path).issues if issue.kind is Kind.UNSAFE]
    assert issues
    return issues


def deflated(name, data):
    return Member(name, data, method=8)


def test_zips_in_zips_are_unpacked_within_one_bound(tmp_path, monkeypatch):
    """A member's end was looked for, and all that is before it unpacked, on each level and for each member anew."""
    monkeypatch.setattr(budget, "MAX_UNPACKED", 4 << 20)
    read = counted(monkeypatch, zipfile.ZipExtFile, "read", len)
    inner = zip_of(*(deflated(b"%d.pt" % number, bytes(3 << 20)) for number in range(10)))
    issues = refused(tmp_path, Member(b"a.zip", inner), Member(b"b.zip", zip_of(deflated(b"c.zip", inner))))
    assert any("packed, with all before it, to more than is unpacked here" in issue.message for issue in issues)
    assert read[0] < 6 << 20


def test_gzips_in_an_archive_are_unpacked_within_one_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MAX_UNPACKED", 4 << 20)
    read = counted(monkeypatch, gzip.GzipFile, "read", len)
    packed = gzip.compress(b"\x80\x04B" + struct.pack("<I", 3 << 20) + bytes(3 << 20) + b".")
    inner = zip_of(*(Member(b"%d.x" % number, packed) for number in range(30)))
    assert any("is not looked into" in issue.message for issue in refused(tmp_path, Member(b"a.zip", inner)))
    assert read[0] < 5 << 20


def test_what_shows_at_once_that_it_is_no_weights_is_not_unpacked(tmp_path, monkeypatch):
    read = counted(monkeypatch, gzip.GzipFile, "read", len)
    path = tmp_path / "m.mar"
    packed = gzip.compress(bytes(3 << 20))
    inner = zip_of(*(Member(b"%d.x" % number, packed) for number in range(30)))
    path.write_bytes(archive(Member(b"base.py", b""), Member(b"a.zip", inner)))
    verify(path)
    assert read[0] < 1 << 20


def test_headers_of_arrays_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MAX_HEADERS", 2000)
    made = counted(monkeypatch, ast, "literal_eval", lambda _: 1)
    fields = ",".join(f"('{number}','i1')" for number in range(100))
    text = f"{{'descr':[{fields}],'fortran_order':False,'shape':(0,)}}".encode()
    one = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text
    issues = refused(tmp_path, *(Member(b"%d.npy" % number, one * 100) for number in range(5)))
    assert any("holds arrays of numpy that are not all read" in issue.message for issue in issues)
    assert made[0] < 20


def test_entries_of_zips_in_an_archive_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MAX_HEADERS", 500)
    inner = zip_of(*(Member(b"%d" % number, b"") for number in range(200)))
    monkeypatch.setattr(zipfile, "ZipInfo", Steps)
    Steps.count = 0
    issues = refused(tmp_path, *(Member(b"%d.zip" % number, inner) for number in range(50)))
    assert any("is a zip that has more than" in issue.message for issue in issues)
    assert Steps.count < 1000


def test_headers_of_tars_in_an_archive_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MAX_HEADERS", 2000)
    read = counted(monkeypatch, tarfile.TarInfo, "frombuf", lambda _: 1)
    one = b"".join(pax(200) + member(number) for number in range(50)) + bytes(1024)
    refused(tmp_path, *(Member(b"%d.tar" % number, one) for number in range(30)))
    assert read[0] < 1000


def test_a_tar_in_an_archive_whose_member_leads_back(tmp_path):
    info = tarfile.TarInfo("m")
    info.size = -512
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    assert any("of -512 bytes" in issue.message for issue in refused(tmp_path, Member(b"m.tar", data)))
