"""The bytes of an archive, and what is left when writing one fails."""

import errno
import gzip
import hashlib
import os
import re
import stat
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.metadata.manifest import ZIP_EPOCH, Model, new_manifest
from archive_tool.metadata.record import MemberRecord, Record
from archive_tool.reading.archive import open_archive
from archive_tool.writing import writer
from archive_tool.writing.plan import Member, Plan

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


def contents(plan, manifest):
    members = {
        member.name: member.source if isinstance(member.source, bytes) else member.source.read_bytes()
        for member in plan.members
    }
    return {**members, "MAR-INF/MANIFEST.json": manifest.to_json()}


def leftovers(folder="store"):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize("archive_format", ["default", "zip-store"])
def test_zip(plan, archive_format):
    manifest = writer.write(plan, Path("store/m.mar"), archive_format)
    with zipfile.ZipFile("store/m.mar") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == contents(plan, manifest)
        assert archive.namelist() == ["a.py", "empty", "sub/w.pt", "é.txt", "MAR-INF/MANIFEST.json"]
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == stat.S_IFREG | 0o644
            assert info.create_system == 3
            stored = archive_format == "zip-store" or info.filename == "sub/w.pt"
            assert info.compress_type == (zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("archive_format", FORMATS)
def test_the_record_names_every_member(plan, archive_format):
    given = Record(description="a net", members={"stale": MemberRecord("0" * 64, 1)})
    before = replace(plan, manifest=plan.manifest.with_record(given))
    manifest = writer.write(before, Path("store/m"), archive_format)
    with open_archive("store/m") as archive:
        assert archive.manifest == manifest
    expected = {
        name: MemberRecord(hashlib.sha256(data).hexdigest(), len(data))
        for name, data in contents(plan, manifest).items()
        if name != "MAR-INF/MANIFEST.json"
    }
    assert manifest.record == Record(description="a net", members=expected)
    assert list(manifest.to_dict()["torchmar"]["members"]) == sorted(expected)


def test_the_document_lists_what_is_stored():
    text = (Path(__file__).resolve().parents[3] / "docs/archive-format.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\.[a-z0-9]+)`", text)) == writer.STORED_SUFFIXES | {".mar"}


def test_everything_is_deflated_on_request(plan):
    Path("in/sub/w.pt").write_bytes(bytes(3 << 20))
    writer.write(plan, Path("store/m.mar"), "default", compress=True)
    with zipfile.ZipFile("store/m.mar") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}
        assert archive.read("sub/w.pt") == bytes(3 << 20)
    assert Path("store/m.mar").stat().st_size < 100_000


def test_tar(plan):
    manifest = writer.write(plan, Path("store/m.tar.gz"), "tgz")
    with tarfile.open("store/m.tar.gz") as archive:
        infos = archive.getmembers()
        assert {info.name: archive.extractfile(info).read() for info in infos} == {
            f"m/{name}": data for name, data in contents(plan, manifest).items()
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
        data = stream.read()
    assert len(data) % 10240 == 0  # whole records
    assert data.endswith(bytes(1024))


def test_a_long_name_in_a_tar(work):
    name = "/".join(["é" * 50] * 5)
    writer.write(make_plan(Member(name, b"x" * 513)), Path("m.tar.gz"), "tgz")
    with tarfile.open("m.tar.gz") as archive:
        assert archive.extractfile(f"m/{name}").read() == b"x" * 513


def test_folder(plan):
    manifest = writer.write(plan, Path("store/m"), "no-archive")
    found = {
        path.relative_to("store/m").as_posix(): path.read_bytes()
        for path in Path("store/m").rglob("*")
        if path.is_file()
    }
    assert found == contents(plan, manifest)


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

    def late(*arguments):
        manifest = real(*arguments)
        monkeypatch.setattr(writer, "check_target", lambda *_, **__: late_check())
        return manifest

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
def test_an_interrupt_leaves_nothing(plan, archive_format, name):
    def interrupt(done, total):
        raise KeyboardInterrupt

    writer.write(make_plan(), Path("store", name), archive_format)
    with pytest.raises(KeyboardInterrupt):
        writer.write(plan, Path("store", name), archive_format, force=True, progress=interrupt)
    assert leftovers() == [name]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("deflate", "sha256"))]
    writer.write(plan, Path("store", name), archive_format, force=True)


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
def test_a_full_disk_leaves_nothing(plan, archive_format, name):
    """A file that may not grow stands for a disk that is full."""
    resource = pytest.importorskip("resource")
    Path("in/sub/w.pt").write_bytes(os.urandom(200_000))
    writer.write(make_plan(), Path("store", name), archive_format)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(BuildError, match=r"cannot write store.m.*: File too large"):
            writer.write(plan, Path("store", name), archive_format, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert leftovers() == [name]


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


def append(path):
    with path.open("ab") as stream:
        stream.write(b"x")


def cut(path):
    os.truncate(path, 100)


def overwrite(path):
    """Write the old size and the old times."""
    times = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"y")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
@pytest.mark.parametrize("change", [append, cut, overwrite])
def test_a_source_that_changes_meanwhile(work, archive_format, name, change):
    path = Path("busy.pt")
    path.write_bytes(b"x" * (3 << 20))
    settled = time.monotonic() + 0.05  # file systems count time in ticks of some milliseconds

    def meanwhile(done, total):
        if done == 1 << 20:
            time.sleep(max(0.0, settled - time.monotonic()))
            change(path)

    with pytest.raises(BuildError, match=r"busy\.pt changed while it was read") as caught:
        writer.write(make_plan(Member("busy.pt", path)), Path("store", name), archive_format, progress=meanwhile)
    assert "build again" in caught.value.hint
    assert leftovers() == []


def test_a_source_that_is_gone(work):
    with pytest.raises(BuildError, match="cannot read gone: No such file"):
        writer.write(make_plan(Member("gone", Path("gone"))), Path("store/m.mar"), "default")
    assert leftovers() == []


@pytest.mark.parametrize(("archive_format", "name"), FORMATS.items())
@pytest.mark.parametrize("force", [False, True])
def test_builds_of_one_name_side_by_side(plan, archive_format, name, force):
    """Each either writes its whole archive or finds that there is one."""
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
    plan = make_plan(Member("big.pt", Path("big.pt")))
    writer.write(plan, Path("store/m.mar"), "default")  # imports what it needs
    tracemalloc.start()
    try:
        writer.write(plan, Path("store/m.mar"), "default", force=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("archive_format", FORMATS)
def test_progress(plan, archive_format):
    Path("in/sub/w.pt").write_bytes(bytes((3 << 20) + 1))
    told = []
    writer.write(plan, Path("store/m"), archive_format, progress=lambda done, total: told.append((done, total)))
    total = sum(member.source.stat().st_size for member in plan.members)
    assert {whole for _, whole in told} == {total}
    counts = [done for done, _ in told]
    assert counts == sorted(counts)
    assert counts[-1] == total
    assert len(counts) > 4
