"""Every issue of an archive is found, `extract` refuses the same, and nothing is touched or run."""

import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import archive_tool
from archive_tool.errors import ArchiveError
from archive_tool.issues import Kind, exit_code
from archive_tool.reading import containers
from archive_tool.verification.extraction import open_archive
from archive_tool.verification.verify import verify
from tests.archive_tool.hostile import MANIFEST, Member, archive, attack, checkpoint, zip_of


def manifest(members=None, **model):
    document = {"runtime": "python", "model": {"modelName": "m", "handler": "base_handler", **model}}
    if members is not None:
        sizes = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in members.items()
        }
        document["torchmar"] = {"formatVersion": 1, "members": sizes}
    return json.dumps(document).encode()


def told(path, **how):
    """Return the kinds and messages of a verification, notes apart; extraction must agree."""
    result = verify(path, **how)
    issues = [(issue.kind, issue.message) for issue in result.issues if issue.kind is not Kind.NOTE]
    out = path.parent / "out"
    before = sorted(path.parent.iterdir())
    if result.kind is None:
        extract(path, out, how)
        return issues
    with pytest.raises(ArchiveError) as refused:
        extract(path, out, how)
    assert refused.value.exit_code == exit_code(result.kind)
    assert sorted(path.parent.iterdir()) == before
    return issues


def extract(path, out, how):
    with open_archive(path) as opened:
        opened.extract(out, allow_pickles=how.get("allow_pickles", ()))


@pytest.fixture
def put(tmp_path):
    """Write bytes as an archive in a folder of its own."""
    folder = tmp_path / "in"
    folder.mkdir()

    def write(data, name="m.mar"):
        path = folder / name
        path.write_bytes(data)
        return path

    return write


def tar_of(members, name="m.tar.gz"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as packed:
        for member, data in members.items():
            info = tarfile.TarInfo(f"m/{member}")
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return stream.getvalue()


FILES = {"h.py": b"def handle(data, context): return data\n", "w.raw": bytes(500)}


def packed(kind, members, tmp_path):
    """Return the same members as a zip, a deflated zip, a tar.gz or a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    if kind == "folder":
        path = folder / "m"
        for name, data in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    path = folder / ("m.tar.gz" if kind == "tgz" else "m.mar")
    method = 8 if kind == "deflated" else 0
    data = tar_of(members) if kind == "tgz" else zip_of(*(Member(n.encode(), d, method) for n, d in members.items()))
    path.write_bytes(data)
    return path


KINDS = ["zip", "deflated", "tgz", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_good_archives(kind, tmp_path):
    path = packed(kind, {**FILES, "MAR-INF/MANIFEST.json": manifest(FILES)}, tmp_path)
    result = verify(path)
    assert result.issues == ()
    assert result.to_dict() == {
        "path": str(path),
        "status": "good",
        "members": 3,
        "recorded": True,
        "signed": None,
        "issues": [],
    }
    assert told(path) == []


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_what_build_writes_is_good(options, archive_format):
    Path("weights.pt").write_bytes(checkpoint(b"N."))
    result = archive_tool.build(**options, archive_format=archive_format)
    assert verify(result.path).kind is None


@pytest.mark.parametrize("kind", KINDS)
def test_missing_added_and_altered_members(kind, tmp_path):
    recorded = {**FILES, "gone.txt": b"1", "grown.txt": b"12", "changed.txt": b"abc"}
    there = {**FILES, "grown.txt": b"123", "changed.txt": b"abd", "new.py": b"import os"}
    path = packed(kind, {**there, "MAR-INF/MANIFEST.json": manifest(recorded)}, tmp_path)
    result = verify(path)
    assert {(issue.kind, issue.member) for issue in result.issues} == {
        (Kind.ALTERED, name) for name in ("gone.txt", "new.py", "grown.txt", "changed.txt")
    }
    messages = {issue.member: issue.message for issue in result.issues}
    assert messages["gone.txt"] == "'gone.txt' is missing"
    assert messages["new.py"] == "'new.py' was added: the manifest does not record it"
    assert messages["grown.txt"] == "'grown.txt' was altered: it has 3 bytes, recorded are 2"
    assert messages["changed.txt"] == "'changed.txt' was altered: its SHA-256 is not the recorded one"
    assert result.to_dict()["status"] == "altered"


@pytest.mark.parametrize("kind", KINDS)
def test_an_altered_member_is_not_extracted(kind, tmp_path):
    there = {**FILES, "w.raw": bytes(499) + b"1"}
    path = packed(kind, {**there, "MAR-INF/MANIFEST.json": manifest(FILES)}, tmp_path)
    assert told(path) == [(Kind.ALTERED, "'w.raw' was altered: its SHA-256 is not the recorded one")]


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_that_would_run_code(kind, tmp_path):
    members = {**FILES, "w.pt": checkpoint(attack()), "MAR-INF/MANIFEST.json": MANIFEST}
    path = packed(kind, members, tmp_path)
    ((found, message),) = told(path)
    assert found is Kind.UNSAFE
    assert message.startswith("'w.pt' holds 'w/data.pkl', which would run code when it is loaded")
    assert not Path("pwned").exists()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_that_somebody_answers_for(kind, tmp_path):
    path = packed(kind, {**FILES, "w.pt": checkpoint(attack()), "MAR-INF/MANIFEST.json": MANIFEST}, tmp_path)
    assert told(path, allow_pickles=["w.pt"]) == []


@pytest.mark.parametrize(("name", "content"), [("numbers", bytes(99)), ("notes.txt", attack(0))])
@pytest.mark.parametrize("serialized", [True, False])
def test_the_serialized_file_is_weights_whatever_its_name(name, content, serialized, put):
    members = (Member(name.encode(), content), Member(b"others.txt", b"1"))
    data = archive(*members, manifest=manifest(serializedFile=name) if serialized else manifest())
    assert [kind for kind, _ in told(put(data))] == ([Kind.UNSAFE] if serialized else [])


@pytest.mark.parametrize(("content", "good"), [(bytes(range(256)), True), (attack(0), False)])
def test_a_compile_cache_is_no_weights(content, good, put):
    """`torchmar optimize` puts it there; a pickle of that name is one all the same."""
    assert (told(put(archive(Member(b"compile-cache.bin", content)))) == []) is good


HOSTILE_NAMES = ["/abs", "../up", "a/../../up", "a\\b", "C:/x", "nul", "x" * 300, "a/./b", "a\x00b", "a/" * 600 + "b"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names(name, put):
    issues = told(put(archive(Member(name.encode(), b"evil"))))
    assert [kind for kind, _ in issues] == [Kind.UNSAFE]
    assert repr(name) in issues[0][1]


def test_names_that_collide(put):
    data = archive(Member(b"a", b"1"), Member(b"a", b"2"), Member(b"B", b""), Member(b"b", b""), Member(b"b/c", b""))
    assert [message for _, message in told(put(data))] == [
        "'a' is there twice",
        "'B' and 'b' are one file where case does not count",
        "'b/c' needs a folder where 'B' is a file",
    ]


def test_a_collision_hides_nothing_else(put):
    twice = [Member(b"w.pt", b"1"), Member(b"w.pt", checkpoint(attack()))]
    result = verify(put(archive(*twice, Member(b"x.pkl", attack()))))
    messages = [issue.message for issue in result.issues if issue.kind is Kind.UNSAFE]
    assert len(messages) == 4
    assert sum("would run code" in message for message in messages) == 2


def test_links_and_devices(put):
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as packed_file:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        packed_file.writestr(info, "/etc/passwd")
    assert told(put(stream.getvalue())) == [(Kind.UNSAFE, "'link' is a symbolic link")]


def test_a_link_out_of_a_folder(tmp_path):
    (tmp_path / "in" / "m").mkdir(parents=True)
    (tmp_path / "in" / "m" / "link").symlink_to("/etc/passwd")
    assert told(tmp_path / "in" / "m") == [(Kind.UNSAFE, "'link' is a symbolic link")]


def test_bombs(put, monkeypatch):
    monkeypatch.setattr(containers, "RATIO_FROM", 100_000)
    monkeypatch.setattr(containers, "MAX_RATIO", 100)
    path = put(archive(Member(b"zeros.txt", bytes(300_000), method=8)))
    assert "would grow" in told(path)[0][1]
    path = put(tar_of({"zeros.txt": bytes(300_000)}), "m.tar.gz")
    assert "would grow" in told(path)[0][1]


def test_overlapping_members(put):
    data = archive(Member(b"a", b"a" * 50), Member(b"b", b"", central={"offset": 0, "name": b"a2"}))
    issues = told(put(data))
    assert Kind.UNSAFE in {kind for kind, _ in issues} or issues[0][0] is Kind.UNREADABLE


@pytest.mark.parametrize("more", [{"before": b"PK at the start"}, {"after": b"x"}, {"between": b"x"}])
def test_bytes_of_no_member(put, more):
    assert Kind.UNSAFE in {kind for kind, _ in told(put(archive(Member(b"a", b"1"), **more)))}


def test_a_member_that_only_java_would_see(put):
    data = archive(Member(b"a", b"1"), Member(b"sitecustomize.py", b"import os", listed=False))
    assert [kind for kind, _ in told(put(data))] == [Kind.UNSAFE]


def test_a_member_behind_the_end_of_another(put):
    hidden = zip_of(Member(b"sitecustomize.py", b"x"))[:47]
    issues = told(put(archive(Member(b"a.txt", b"a" * 500, 8, 8, tail=hidden))))
    message = "'a.txt' ends before the directory says so: TorchServe takes the rest for further members"
    assert (Kind.UNSAFE, message) in issues


def test_a_stored_member_that_java_cannot_read(put):
    issues = told(put(archive(Member(b"a.txt", b"12345", flags=8))))
    assert [kind for kind, _ in issues] == [Kind.UNREADABLE]


def test_a_tar_with_a_damaged_header_in_the_middle(put):
    """To Python the list ends there; Java reads on."""
    data = bytearray(gzip.decompress(tar_of({"a": b"1", "b": b"2", "c": b"3"})))
    data[1024 + 148] ^= 1  # the checksum of the second header
    ((kind, message),) = told(put(gzip.compress(bytes(data)), "m.tar.gz"))
    assert kind is Kind.UNSAFE
    assert "to a damaged one" in message


def test_a_second_gzip_stream(put):
    """Java stops after the first, Python goes on."""
    whole = gzip.decompress(tar_of({"a": b"1", "b": b"2"}))
    ((kind, message),) = told(put(gzip.compress(whole) + gzip.compress(whole), "m.tar.gz"))
    assert kind is Kind.UNSAFE
    assert "after the gzip stream" in message
    assert told(put(gzip.compress(whole) + bytes(512), "m.tar.gz")) == []


PATHS = [
    {"serializedFile": "/etc/passwd"},
    {"modelFile": "../model.py"},
    {"configFile": "a/../../config.yaml"},
    {"requirementsFile": "/requirements.txt"},
    {"handler": "../../h.py:handle"},
]


@pytest.mark.parametrize("model", PATHS)
def test_paths_in_the_manifest(put, model):
    ((key, value),) = model.items()
    ((kind, message),) = told(put(archive(manifest=manifest(**model))))
    assert kind is Kind.UNSAFE
    assert f"model.{key} {value.split(':')[0]!r}" in message


@pytest.mark.parametrize("handler", ["h:handle", "image_classifier", "h.py", None])
def test_handlers_that_are_no_paths(put, handler):
    assert told(put(archive(Member(b"h.py", b""), manifest=manifest(handler=handler)))) == []


CONFIGS = {
    "tag": (b"minWorkers: !!java.net.URL [x]\n", Kind.UNSAFE, "line 1: the tag"),
    "climbing": (b"deepspeed:\n  config: ../../etc/x.json\n", Kind.UNSAFE, "deepspeed.config leads out of the archive"),
    "windows": (b"handler:\n  path: a\\..\\b\n", Kind.UNSAFE, "handler.path leads out"),
}


@pytest.mark.parametrize("which", CONFIGS)
def test_config_files(put, which):
    text, kind, message = CONFIGS[which]
    ((found, told_message),) = told(put(archive(Member(b"c.yaml", text), manifest=manifest(configFile="c.yaml"))))
    assert found is kind
    assert message in told_message


@pytest.mark.parametrize(
    "text", [b"handler:\n  path: /data/model\n", b"handler: {x: a..b, y: 'https://x/y'}\n", b"handler: {}\n"]
)
def test_config_files_that_are_not_refused(put, text):
    path = put(archive(Member(b"c.yaml", text), manifest=manifest(FILES and None, configFile="c.yaml")))
    assert told(path) == []


def test_default_answers(put):
    def archive_of(text, *more):
        return put(archive(Member(b"c.yaml", text), *more, manifest=manifest(configFile="c.yaml")))

    def problems(path):
        return [(issue.kind, issue.message) for issue in verify(path).issues if "default_answer" in issue.message]

    assert problems(archive_of(b"default_answer: none.json", Member(b"none.json", b"[]"))) == []
    missing = "'c.yaml': default_answer names 'none.json', which is no file of the archive"
    assert problems(archive_of(b"default_answer: none.json")) == [(Kind.UNREADABLE, missing)]
    large = archive_of(b"default_answer: none.json", Member(b"none.json", bytes(range(256)) * 4097))
    assert problems(large)[0][1].endswith("has 1048832 bytes; a server keeps at most 1048576 in memory")
    assert problems(archive_of(b"default_answer: ../none.json"))[0][0] is Kind.UNSAFE
    assert problems(archive_of(b"default_answer: !!int x")) == []
    # An archive that lacks it can be unpacked, looked at and mended.
    with open_archive(archive_of(b"default_answer: none.json")) as opened:
        opened.extract(opened.path.parent / "out", complete=False)


def test_a_config_file_that_is_too_long(put, monkeypatch):
    from archive_tool.config import safe_yaml

    monkeypatch.setattr(safe_yaml, "MAX_BYTES", 10)
    ((kind, _),) = told(put(archive(Member(b"c.yaml", b"a: 1234567890"), manifest=manifest(configFile="c.yaml"))))
    assert kind is Kind.UNREADABLE


def test_notes(put):
    notes = [issue.message for issue in verify(put(archive(Member(b"a", b"1")))).issues]
    assert notes == ["the manifest records no hashes of the members; only the archive's own checksums tell"]
    notes = [issue.message for issue in verify(put(zip_of(Member(b"a", b"1")))).issues]
    assert notes == ["there is no manifest, which TorchServe allows"]
    config = Member(b"c.yaml", b"handler: {path: /data/model}")
    path = put(archive(config, manifest=manifest(configFile="c.yaml")))
    assert "names a place outside the archive" in verify(path).issues[0].message


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"model": {"modelName": "m"}, "torchmar": 3}'])
def test_a_manifest_that_cannot_be_read(put, text):
    issues = told(put(archive(Member(b"a", b"1"), manifest=text)))
    assert [kind for kind, _ in issues] == [Kind.UNREADABLE]


def test_what_cannot_be_opened(tmp_path):
    assert [issue.kind for issue in verify(tmp_path / "nothing.mar").issues] == [Kind.UNREADABLE]
    (tmp_path / "text.mar").write_text("no archive")
    assert verify(tmp_path / "text.mar").to_dict()["status"] == "unreadable"


def test_one_damaged_member_hides_no_other(put):
    data = bytearray(archive(Member(b"a", b"xxxx"), Member(b"b", b"yyyy"), Member(b"w.pt", attack())))
    for letter in (b"xxxx", b"yyyy"):
        data[data.index(letter)] ^= 1
    result = verify(put(bytes(data)))
    kinds = {issue.member: issue.kind for issue in result.issues}
    assert kinds["a"] is kinds["b"] is Kind.UNREADABLE
    assert kinds["w.pt"] is Kind.UNSAFE


def test_a_bomb_is_not_unpacked(put, monkeypatch):
    path = put(archive(Member(b"zeros.txt", bytes(3_000_000), method=8)))
    monkeypatch.setattr(containers, "RATIO_FROM", 100_000)
    monkeypatch.setattr(containers, "MAX_RATIO", 100)
    opened, really = [], containers.ZipContainer.open

    def open_noted(container, entry):
        opened.append(entry.name)
        return really(container, entry)

    monkeypatch.setattr(containers.ZipContainer, "open", open_noted)
    assert verify(path).kind is Kind.UNSAFE
    assert "zeros.txt" not in opened


def test_a_large_packed_member_is_kept_on_disk(put, monkeypatch, tmp_path):
    from archive_tool.verification import verify as module  # noqa: F401

    here = sys.modules["archive_tool.verification.verify"]
    monkeypatch.setattr(here, "_IN_MEMORY", 10)
    path = put(archive(Member(b"w.pt", checkpoint(attack()), method=8)))
    assert [issue.kind for issue in verify(path).issues if issue.kind is not Kind.NOTE] == [Kind.UNSAFE]
    usage = here.shutil.disk_usage(".")
    monkeypatch.setattr(here.shutil, "disk_usage", lambda folder: usage._replace(free=1))
    with pytest.raises(archive_tool.InputError, match="1 are free"):
        verify(path)


def test_an_input_that_nobody_may_run_is_never_run(put, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    evil = b"import os; os.mkdir('pwned')\n"
    members = [Member(name, evil) for name in (b"h.py", b"setup.py", b"sitecustomize.py", b"conftest.py")]
    path = put(archive(*members, Member(b"w.pt", attack()), Member(b"x.pkl", attack(0))))
    verify(path)
    assert not Path("pwned").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
