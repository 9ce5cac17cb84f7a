"""The members that each shape of an archive lists."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from archive_tool.errors import UnreadableArchiveError, UnsafeArchiveError
from archive_tool.reading import containers


def listed(path):
    container = containers.open_container(path)
    try:
        return container.archive_format, {entry.name: entry.kind for entry in container.entries}
    finally:
        container.close()


def test_zip(make_zip):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    fifo = zipfile.ZipInfo("fifo")
    fifo.external_attr = 0o010644 << 16
    path = make_zip([("a", b"1"), ("d/", b""), (link, b"a"), (fifo, b"")])
    assert listed(path) == (
        "default",
        {"a": "file", "d/": "folder", "link": "a symbolic link", "fifo": "a device or another special file"},
    )


def test_what_it_is_counts_and_not_its_name(make_zip, make_tar):
    assert listed(make_zip([("a", b"1")], "x.tar.gz"))[0] == "default"
    assert listed(make_tar([("m/a", b"1")], "x.mar"))[0] == "tgz"


def test_a_zip_that_java_cannot_read(tmp_path):
    path = tmp_path / "x.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a", b"1")
    with pytest.raises(UnreadableArchiveError, match="packed by method 12"):
        containers.open_container(path)


def test_tar_loses_its_first_component(make_tar):
    folder = tarfile.TarInfo("m/d")
    folder.type = tarfile.DIRTYPE
    path = make_tar([("m/a", b"1"), (folder, b""), ("./m/b", b""), ("top", b"")])
    assert listed(path) == ("tgz", {"a": "file", "d/": "folder", "m/b": "file", "top": "file"})


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device or another special file"),
        (tarfile.FIFOTYPE, "a device or another special file"),
    ],
)
def test_tar_members_that_are_no_files(make_tar, kind, told):
    info = tarfile.TarInfo("m/x")
    info.type = kind
    info.linkname = "m/y"
    assert listed(make_tar([(info, b"")]))[1] == {"x": told}


def test_a_tar_bomb_is_told_before_it_is_unpacked(make_tar, monkeypatch):
    path = make_tar([("m/zeros", bytes(3_000_000))])
    monkeypatch.setattr(containers, "RATIO_FROM", 1_000_000)
    monkeypatch.setattr(containers, "MAX_RATIO", 100)
    with pytest.raises(UnsafeArchiveError, match="more than 100 times"):
        containers.open_container(path)


def test_a_tar_with_an_endless_header(tmp_path):
    import gzip

    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    info.size = 40 << 20
    path = tmp_path / "x.tar.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(info.tobuf())
        for _ in range(40):
            stream.write(bytes(1 << 20))
    with pytest.raises(UnreadableArchiveError, match="too long"):
        containers.open_container(path)


def test_too_many_members(make_tar, monkeypatch):
    monkeypatch.setattr(containers, "MAX_MEMBERS", 2)
    with pytest.raises(UnsafeArchiveError, match="more than 2 members"):
        containers.open_container(make_tar([("m/a", b""), ("m/b", b""), ("m/c", b"")]))


def test_folder(tmp_path):
    root = tmp_path / "m"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_text("12345")
    (root / "sub" / "inside").symlink_to("../a")
    (root / "outside").symlink_to("/etc/passwd")
    (root / "folder").symlink_to("sub")
    assert listed(root) == (
        "no-archive",
        {"a": "file", "folder": "a symbolic link", "outside": "a symbolic link", "sub/inside": "file"},
    )


def test_a_lone_folder_in_a_folder_is_entered(tmp_path):
    inner = tmp_path / "out" / "m"
    inner.mkdir(parents=True)
    (inner / "a").touch()
    assert listed(tmp_path / "out")[1] == {"a": "file"}
    (tmp_path / "bare" / "MAR-INF").mkdir(parents=True)
    (tmp_path / "bare" / "MAR-INF" / "MANIFEST.json").touch()
    assert listed(tmp_path / "bare")[1] == {"MAR-INF/MANIFEST.json": "file"}


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"hello", "neither a zip"), (b"PK\x03\x04", "damaged"), (b"\x1f\x8b\x08", "damaged")],
)
def test_no_archive(tmp_path, data, message):
    path = tmp_path / "x.mar"
    path.write_bytes(data)
    with pytest.raises(UnreadableArchiveError, match=message):
        containers.open_container(path)


def test_nothing_there(tmp_path):
    with pytest.raises(UnreadableArchiveError, match="there is no archive"):
        containers.open_container(tmp_path / "x.mar")
    with pytest.raises(UnreadableArchiveError, match="not a regular file"):
        containers.open_container(Path("/dev/null"))
