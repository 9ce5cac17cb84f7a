"""Opening, reading and unpacking an archive, of whatever origin."""

import errno
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import archive_tool
from archive_tool.errors import (
    ArchiveError,
    InputError,
    TargetExistsError,
    UnreadableArchiveError,
    UnsafeArchiveError,
)
from archive_tool.reading import containers
from archive_tool.verification import extraction
from archive_tool.verification.extraction import open_archive

FORMATS = ["default", "zip-store", "tgz", "no-archive"]
MANIFEST = b'{"runtime": "python", "model": {"modelName": "m", "handler": "h.py"}}'


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("archive_format", FORMATS)
def test_what_was_built_is_what_is_read(options, archive_format):
    Path("d/sub").mkdir(parents=True)
    Path("d/sub/é.txt").write_text("ä")
    result = archive_tool.build(**options, extra_files="d", archive_format=archive_format)
    with open_archive(result.path) as archive:
        assert archive.archive_format == archive_format
        assert archive.manifest == result.manifest
        assert sorted(member.name for member in archive.members) == sorted(result.members)
        assert archive.read("h.py", 10_000) == Path("h.py").read_bytes()
        assert archive.extract("out") == Path("out")
    assert tree(Path("out")) == {
        "h.py": Path("h.py").read_bytes(),
        "model.py": Path("model.py").read_bytes(),
        "weights.pt": Path("weights.pt").read_bytes(),
        "sub/é.txt": "ä".encode(),
        "MAR-INF/MANIFEST.json": result.manifest.to_json(),
    }


def test_no_manifest(make_zip):
    with open_archive(make_zip([("a", b"1")])) as archive:
        assert archive.manifest is None


def test_a_bad_manifest(make_zip):
    with open_archive(make_zip([("MAR-INF/MANIFEST.json", b"{")])) as archive, pytest.raises(UnreadableArchiveError):
        _ = archive.manifest


def test_read_has_a_limit(make_zip):
    with open_archive(make_zip([("a", b"12345")])) as archive:
        assert archive.read("a", 5) == b"12345"
        with pytest.raises(UnreadableArchiveError, match="longer than 4 bytes"):
            archive.read("a", 4)
        with pytest.raises(UnreadableArchiveError, match="no member 'b'"):
            archive.read("b", 4)


@pytest.mark.parametrize("archive_format", FORMATS)
def test_peek_jumps_about_where_that_is_free(options, archive_format):
    result = archive_tool.build(**options, archive_format=archive_format)
    data = Path("weights.pt").read_bytes()
    with open_archive(result.path) as archive:
        text = archive.peek("h.py")
        assert (text is None) == (archive_format in ("default", "tgz"))
        if text is not None:
            with text:
                assert text.read() == Path("h.py").read_bytes()
        stream = archive.peek("weights.pt")
        if archive_format == "tgz":
            assert stream is None
            return
        with stream:
            assert stream.seek(0, 2) == len(data)
            stream.seek(-30, 1)
            assert stream.read() == data[-30:]
            stream.seek(10)
            assert stream.read(20) == data[10:30]
            assert stream.seek(10**9) == 10**9
            assert stream.read(5) == b""
            stream.seek(0)
            with zipfile.ZipFile(stream) as inner:
                assert inner.testzip() is None


BAD_NAMES = ["/abs", "../up", "a/../../up", "a\\b", "C:/x", "nul", "x" * 300, "a/./b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unsafe_names_in_a_zip(make_zip, tmp_path, name):
    refused(make_zip([("ok", b""), (name, b"evil")]), tmp_path, name)


def test_a_name_that_zipfile_would_cut(make_zip, tmp_path):
    path = make_zip([("safeXevil", b"1")])
    path.write_bytes(path.read_bytes().replace(b"safeXevil", b"safe\0evil"))
    refused(path, tmp_path, "safe\0evil")


@pytest.mark.parametrize("name", ["/abs/x", "../up", "m/../up", "m//x", "m/a\\b"])
def test_unsafe_names_in_a_tar(make_tar, tmp_path, name):
    refused(make_tar([("m/ok", b""), (name, b"evil")]), tmp_path, name)


def refused(path, tmp_path, name):
    with pytest.raises(UnsafeArchiveError) as caught, open_archive(path):
        pass
    assert repr(name) in str(caught.value)
    with open_archive(path, allow_unsafe=True) as archive:
        assert len(archive.members) >= 1
        assert len(archive.problems) == 1
        with pytest.raises(UnsafeArchiveError):
            archive.extract(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path.parent / "up").exists()


def test_every_offender_is_named(make_zip):
    path = make_zip([("/a", b""), ("../b", b""), ("c", b""), ("C", b""), ("d", b""), ("d/e", b"")])
    with pytest.raises(UnsafeArchiveError) as caught, open_archive(path):
        pass
    assert len(caught.value.message.splitlines()) == 5
    assert caught.value.exit_code == 5


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates(make_zip):
    with open_archive(make_zip([("a", b"1"), ("a", b"2")]), allow_unsafe=True) as archive:
        assert archive.problems == ("'a' is there twice",)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_tar_members_that_are_no_files(make_tar, tmp_path, kind):
    info = tarfile.TarInfo("m/evil")
    info.type = kind
    info.linkname = "/etc/passwd"
    refused(make_tar([("m/ok", b""), (info, b"")]), tmp_path, "m/evil")


def test_links_in_a_zip(make_zip, tmp_path):
    info = zipfile.ZipInfo("evil")
    info.external_attr = 0o120777 << 16
    path = make_zip([(info, b"/etc/passwd")])
    refused(path, tmp_path, "evil")
    with open_archive(path, allow_unsafe=True) as archive, pytest.raises(UnsafeArchiveError, match="symbolic link"):
        archive.read("evil", 100)


def test_links_out_of_a_folder(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "evil").symlink_to("/etc/passwd")
    refused(folder, tmp_path, "evil")


def test_bombs(make_zip, monkeypatch):
    path = make_zip([("zeros", bytes(3_000_000))])
    with open_archive(path) as archive:
        assert archive.problems == ()
    monkeypatch.setattr(containers, "RATIO_FROM", 1_000_000)
    monkeypatch.setattr(containers, "MAX_RATIO", 100)
    with open_archive(path, allow_unsafe=True) as archive:
        assert len(archive.problems) == 2
        assert "more than 100 times" in archive.problems[0]


def test_the_bound_of_all_members_together(make_zip):
    packed = make_zip([("zeros", bytes(1_000_000))], "packed.mar")
    plain = make_zip([("noise", os.urandom(1_000_000))], "plain.mar")
    with pytest.raises(UnsafeArchiveError, match="more than the limit"), open_archive(packed, max_total=999_999):
        pass
    with open_archive(plain, max_total=10) as archive:  # what hardly grows is no danger, however large
        assert archive.problems == ()


def test_too_little_space(options, monkeypatch):
    result = archive_tool.build(**options)
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with open_archive(result.path) as archive, pytest.raises(InputError, match="10 are free"):
        archive.extract("out")
    assert not Path("out").exists()


def test_targets(options):
    result = archive_tool.build(**options)
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/x").touch()
    with open_archive(result.path) as archive:
        archive.extract("empty")
        assert Path("empty/h.py").exists()
        for name, message in [("full", "is not empty"), ("h.py", "is no folder"), ("empty", "is not empty")]:
            with pytest.raises(TargetExistsError, match=message):
                archive.extract(name)
        with pytest.raises(InputError, match="does not exist") as caught:
            archive.extract("no/where")
    assert caught.value.hint == "mkdir -p no"
    assert sorted(path.name for path in Path("empty").iterdir()) == ["MAR-INF", "h.py", "model.py", "weights.pt"]


def test_executable_bits_are_not_restored(tmp_path):
    info = zipfile.ZipInfo("run.sh")
    info.external_attr = 0o100777 << 16
    with zipfile.ZipFile(tmp_path / "x.mar", "w") as archive:
        archive.writestr(info, b"#!/bin/sh\n")
    with open_archive(tmp_path / "x.mar") as opened:
        opened.extract(tmp_path / "out")
    assert not (tmp_path / "out" / "run.sh").stat().st_mode & 0o111


@pytest.mark.parametrize("existing", [False, True])
def test_a_damaged_member_leaves_nothing(make_zip, tmp_path, existing):
    path = make_zip([("a", b"fine"), ("b", b"data" * 100)])
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        data[archive.getinfo("b").header_offset + 33] ^= 0xFF
    path.write_bytes(data)
    out = tmp_path / "out"
    if existing:
        out.mkdir()
    with open_archive(path) as opened, pytest.raises(UnreadableArchiveError):
        opened.extract(out)
    assert out.exists() == existing
    assert sorted(item.name for item in tmp_path.rglob("*") if item != out) == ["made.mar"]


def test_moving_into_an_empty_folder_fails_halfway(options, monkeypatch):
    result = archive_tool.build(**options)
    Path("out").mkdir()
    rename = Path.rename

    def fail(self, target):
        if self.name == "model.py":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with open_archive(result.path) as archive, monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fail)
        with pytest.raises(InputError, match="Input/output error"):
            archive.extract("out")
    assert list(Path("out").iterdir()) == []


def test_a_truncated_tar(make_tar, tmp_path):
    path = make_tar([("m/a", os.urandom(5000))])
    for cut in (4, 100, 3000):
        short = tmp_path / "short.tar.gz"
        short.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(UnreadableArchiveError, match="damaged"), open_archive(short):
            pass


def test_a_tar_with_a_bad_checksum(make_tar):
    path = make_tar([("m/a", os.urandom(50))])
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnreadableArchiveError, match="CRC"), open_archive(path):
        pass


@pytest.fixture(scope="session")
def good_archives(tmp_path_factory):
    """Return the bytes of one archive of each packed format."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "h.py").write_text("def handle(data, context): return data\n" * 20)
    (folder / "w.pt").write_bytes(bytes(range(256)) * 4)
    found = []
    for archive_format in ("default", "zip-store", "tgz"):
        result = archive_tool.build(
            model_name="m",
            handler=folder / "h.py",
            serialized_file=folder / "w.pt",
            export_path=folder,
            archive_format=archive_format,
            force=True,
        )
        found.append(result.path.read_bytes())
    return found


changes = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(which=st.integers(0, 2), changes=changes, cut=st.integers(0, 4000) | st.none())
@example(which=0, changes=[(6, 1)], cut=None)
@example(which=2, changes=[(3, 4)], cut=None)
def test_a_mutated_archive_is_opened_or_refused(good_archives, tmp_path, which, changes, cut):
    """Whatever the bytes, each step succeeds or raises an ArchiveError, and a refused extraction leaves nothing."""
    data = bytearray(good_archives[which])
    for position, value in changes:
        data[position % len(data)] = value
    if cut is not None:
        del data[max(0, len(data) - cut % len(data)) :]
    path, out = tmp_path / "x.mar", tmp_path / "out"
    path.write_bytes(data)
    shutil.rmtree(out, ignore_errors=True)
    try:
        with open_archive(path) as archive:
            _ = archive.manifest
            archive.extract(out)
            assert len(tree(out)) == len(archive.members)
    except ArchiveError:
        assert not out.exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == (["out", "x.mar"] if out.exists() else ["x.mar"])
