"""The bytes of an archive, and what is left when writing one fails."""

import errno
import gzip
import os
import stat
import struct
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from archive_tool import writer
from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.manifest import ZIP_EPOCH, Model, new_manifest
from archive_tool.plan import Member, Plan

FORMATS = {"default": "m.mar", "zip-store": "m.mar", "tgz": "m.tar.gz", "no-archive": "m"}


@pytest.fixture
def plan(work):
    files = {"a.py": b"x = 1\n" * 100, "sub/w.pt": os.urandom(5000), "é.txt": "ä".encode() * 99, "empty": b""}
    for name, data in files.items():
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        Path("in", name).write_bytes(data)
    return make_plan(*(Member(name, Path("in", name)) for name in sorted(files)))


def make_plan(*members, seconds=ZIP_EPOCH):
    return Plan("m", members, new_manifest(Model("m", "h.py"), runtime="python", seconds=seconds), seconds)


def contents(plan):
    return {
        member.name: member.source if isinstance(member.source, bytes) else member.source.read_bytes()
        for member in plan.all_members()
    }


def leftovers(folder="store"):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize("archive_format", ["default", "zip-store"])
def test_zip(plan, archive_format):
    writer.write(plan, Path("store/m.mar"), archive_format)
    with zipfile.ZipFile("store/m.mar") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == contents(plan)
        assert archive.namelist() == ["a.py", "empty", "sub/w.pt", "é.txt", "MAR-INF/MANIFEST.json"]
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == stat.S_IFREG | 0o644
            assert info.create_system == 3
            stored = archive_format == "zip-store" or info.filename == "sub/w.pt"
            assert info.compress_type == (zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
            check_local_header(Path("store/m.mar").read_bytes(), info)


def check_local_header(data, info):
    """Java reads a zip from front to back: what it needs must stand before each member, not behind it."""
    fields = struct.unpack_from("<4sHHHHHIIIHH", data, info.header_offset)
    signature, _, flags, method, _, _, crc, packed, size, _, _ = fields
    assert signature == b"PK\x03\x04"
    assert not flags & 0x08
    assert method == info.compress_type
    assert (crc, packed, size) == (info.CRC, info.compress_size, info.file_size)


def test_members_beyond_the_limit_of_plain_zip(plan, monkeypatch):
    """The same code path as for 2 GiB and more, with the limit lowered."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    writer.write(plan, Path("store/m.mar"), "default")
    data = Path("store/m.mar").read_bytes()
    with zipfile.ZipFile("store/m.mar") as archive:
        assert archive.read("sub/w.pt") == Path("in/sub/w.pt").read_bytes()
        info = archive.getinfo("sub/w.pt")
    (flags,) = struct.unpack_from("<H", data, info.header_offset + 6)
    assert not flags & 0x08
    start = info.header_offset + 30 + len("sub/w.pt")
    assert struct.unpack_from("<HHQQ", data, start) == (1, 16, 5000, 5000)


def test_tar(plan):
    writer.write(plan, Path("store/m.tar.gz"), "tgz")
    with tarfile.open("store/m.tar.gz") as archive:
        infos = archive.getmembers()
        assert {info.name: archive.extractfile(info).read() for info in infos} == {
            f"m/{name}": data for name, data in contents(plan).items()
        }
        for info in infos:
            assert (info.mtime, info.mode, info.uid, info.gid, info.uname, info.gname) == (
                ZIP_EPOCH,
                0o644,
                0,
                0,
                "",
                "",
            )
    head = Path("store/m.tar.gz").read_bytes()[:8]
    assert head == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"  # no name, no time
    with gzip.open("store/m.tar.gz") as stream:
        assert stream.read()


def test_folder(plan):
    writer.write(plan, Path("store/m"), "no-archive")
    found = {
        path.relative_to("store/m").as_posix(): path.read_bytes()
        for path in Path("store/m").rglob("*")
        if path.is_file()
    }
    assert found == contents(plan)


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz"])
def test_the_same_bytes_from_the_same_inputs(plan, archive_format):
    writer.write(plan, Path("one"), archive_format)
    for name in ("in/a.py", "in/sub/w.pt"):
        os.utime(name, (1, 1))
        Path(name).chmod(0o700)
    writer.write(plan, Path("two"), archive_format)
    assert Path("one").read_bytes() == Path("two").read_bytes()


@pytest.mark.parametrize(
    ("seconds", "date"), [(0, (1980, 1, 1, 0, 0, 0)), (1700000000, (2023, 11, 14, 22, 13, 20)), (10**11, None)]
)
def test_the_time_is_kept_within_what_a_zip_can_say(work, seconds, date):
    writer.write(make_plan(seconds=seconds), Path("m.mar"), "default")
    with zipfile.ZipFile("m.mar") as archive:
        assert archive.infolist()[0].date_time == (date or (2107, 12, 31, 23, 59, 58))


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
def test_ordinary_permissions(plan, archive_format, name):
    before = os.umask(0o027)
    try:
        writer.write(plan, Path("store", name), archive_format)
    finally:
        os.umask(before)
    mode = 0o750 if archive_format == "no-archive" else 0o640
    assert stat.S_IMODE(Path("store", name).stat().st_mode) == mode


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
def test_what_is_there_stays_without_force(plan, archive_format, name):
    writer.write(plan, Path("store", name), archive_format)
    with pytest.raises(TargetExistsError, match="exists already") as caught:
        writer.write(make_plan(), Path("store", name), archive_format)
    assert "--force" in caught.value.hint
    assert leftovers() == [name]
    writer.write(make_plan(), Path("store", name), archive_format, force=True)
    assert leftovers() == [name]
    if archive_format == "no-archive":
        assert [path.name for path in Path("store/m").rglob("*")] == ["MAR-INF", "MANIFEST.json"]


def test_a_strangers_folder_is_never_replaced(plan):
    Path("store/m").mkdir()
    writer.write(plan, Path("store/m"), "no-archive", force=True)
    for name in ("photos", "m.mar"):
        Path("store", name).mkdir()
        Path("store", name, "holiday.jpg").touch()
    with pytest.raises(TargetExistsError, match=r"without MAR-INF/MANIFEST\.json"):
        writer.write(plan, Path("store/photos"), "no-archive", force=True)
    with pytest.raises(TargetExistsError, match="is a directory"):
        writer.write(plan, Path("store/m.mar"), "default", force=True)
    Path("store/link").symlink_to("photos")
    Path("store/file").touch()
    for name in ("link", "file"):
        with pytest.raises(TargetExistsError, match="is not a directory"):
            writer.write(plan, Path("store", name), "no-archive", force=True)
    assert leftovers() == ["file", "link", "m", "m.mar", "photos"]


def test_a_build_that_ends_meanwhile_is_not_replaced(plan, monkeypatch):
    """The target appears after the check: the link refuses, where a rename would replace it."""
    real = os.link

    def late(source, target):
        Path(target).write_text("theirs")
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(TargetExistsError):
        writer.write(plan, Path("store/m.mar"), "default")
    assert Path("store/m.mar").read_text() == "theirs"
    assert leftovers() == ["m.mar"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(plan, monkeypatch):
    real = writer._fill_folder

    def late(plan, temporary):
        real(plan, temporary)
        monkeypatch.setattr(writer, "check_target", lambda *_, **__: late_check())

    def late_check():
        monkeypatch.setattr(writer, "check_target", check_target)
        Path("store/m").mkdir()
        Path("store/m/theirs").touch()

    check_target = writer.check_target
    monkeypatch.setattr(writer, "_fill_folder", late)
    with pytest.raises(TargetExistsError):
        writer.write(plan, Path("store/m"), "no-archive")
    assert leftovers() == ["m"]
    assert Path("store/m/theirs").exists()


def test_a_file_system_without_links(plan, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    writer.write(plan, Path("store/m.mar"), "default")
    assert zipfile.is_zipfile("store/m.mar")
    assert leftovers() == ["m.mar"]


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_leaves_nothing(plan, monkeypatch, archive_format, name, error):
    def fail(*_):
        raise error

    expected = BuildError if isinstance(error, OSError) else KeyboardInterrupt
    writer.write(make_plan(), Path("store", name), archive_format)
    with monkeypatch.context() as patched:
        patched.setattr(writer._Source, "read", fail)
        with pytest.raises(expected) as caught:
            writer.write(plan, Path("store", name), archive_format, force=True)
    if expected is BuildError:
        assert "No space left on device" in str(caught.value)
    assert leftovers() == [name]
    writer.write(plan, Path("store", name), archive_format, force=True)


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
def test_a_failure_at_the_last_step(plan, monkeypatch, archive_format, name):
    """The new one cannot take its place: the old one keeps it."""
    writer.write(plan, Path("store", name), archive_format)
    rename = Path.rename

    def fail(self, target):
        if self.name.endswith(".tmp"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fail)
        patched.setattr(Path, "replace", fail)
        with pytest.raises(BuildError, match="Permission denied"):
            writer.write(make_plan(), Path("store", name), archive_format, force=True)
    assert leftovers() == [name]
    if archive_format == "no-archive":
        assert Path("store/m/a.py").exists()


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
@pytest.mark.parametrize("change", [-1, 1])
def test_a_source_that_changes_meanwhile(work, monkeypatch, archive_format, name, change):
    Path("growing").write_bytes(b"x" * 100)

    real = writer._Source.__init__

    def other_size(self, stream, path, size):
        real(self, stream, path, size + change)

    monkeypatch.setattr(writer._Source, "__init__", other_size)
    with pytest.raises(BuildError, match="growing changed while it was read"):
        writer.write(make_plan(Member("growing", Path("growing"))), Path("store", name), archive_format)
    assert leftovers() == []


def test_a_source_that_is_gone(work):
    with pytest.raises(BuildError, match="cannot read gone: No such file"):
        writer.write(make_plan(Member("gone", Path("gone"))), Path("store/m.mar"), "default")
    assert leftovers() == []


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
@pytest.mark.parametrize("force", [False, True])
def test_builds_of_one_name_side_by_side(plan, archive_format, name, force):
    """Each either writes its whole archive or is told that there is one."""
    outcomes = []
    barrier = threading.Barrier(4)

    def run():
        barrier.wait()
        try:
            writer.write(plan, Path("store", name), archive_format, force=force)
            outcomes.append("written")
        except TargetExistsError:
            outcomes.append("exists")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("written") == (4 if force else 1)
    assert len(outcomes) == 4
    assert leftovers() == [name]
    assert (Path("store", name).stat().st_size if archive_format != "no-archive" else True) > 0


def test_memory_does_not_grow_with_a_member(work):
    import tracemalloc

    with Path("big.pt").open("wb") as stream:
        stream.truncate(64 << 20)
    tracemalloc.start()
    try:
        writer.write(make_plan(Member("big.pt", Path("big.pt"))), Path("store/m.mar"), "default")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
