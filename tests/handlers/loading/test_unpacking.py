"""The folders in which packages are unpacked, and that nothing of them stays; torch's own loader: test_compiled.py."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from pathlib import Path

import pytest

from handlers.loading import unpacking

ROOT = Path(__file__).resolve().parents[3]
_TAKES_FOLDERS = unpacking.takes_folders


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/aotinductor/model/code.so", "code")
    return path


@pytest.fixture
def removed_at_exit(monkeypatch):
    """Collect what is to be run when the process ends."""
    calls = []
    monkeypatch.setattr(unpacking.atexit, "register", lambda function, *given: calls.append((function, given)))
    return calls


@pytest.fixture(autouse=True)
def _newer(monkeypatch):
    """Imitate a torch that loads folders, whichever is here."""
    monkeypatch.setattr(unpacking, "takes_folders", lambda: True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("File not found: {}/data/aotinductor/model/asked_metadata.json"), True),
        (RuntimeError("Error in dlopen: {}/data/aotinductor/model/asked.so: file too short"), True),
        (RuntimeError("Failed to initialize zip archive: file read failed"), False),
        (ImportError("cannot import name 'aoti_load_package' from 'torch._inductor'"), False),
        (None, False),
    ],
)
def test_torch_is_asked_whether_it_loads_folders(temporary, monkeypatch, error, expected):
    def load(place):
        assert [path.name for path in place.rglob("*.so")] == ["asked.so"]
        if error:
            raise type(error)(str(error).format(place))

    monkeypatch.setattr(unpacking, "load", load)
    assert _TAKES_FOLDERS.__wrapped__() is expected
    assert list(temporary.iterdir()) == []


def test_a_package_is_there_while_it_is_loaded(temporary, package, removed_at_exit):
    with unpacking.unpacked(package, keep=False) as place:
        assert place.is_relative_to(temporary)
        assert (place / "data" / "aotinductor" / "model" / "code.so").read_text() == "code"
    assert list(temporary.iterdir()) == []
    assert removed_at_exit == []


def test_older_packages_have_no_folder_of_their_own(temporary, tmp_path):
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/aotinductor/model/code.so", "code")
    with unpacking.unpacked(path, keep=False) as place:
        assert (place / "data" / "aotinductor" / "model" / "code.so").is_file()


def test_a_folder_is_taken_where_it_is(temporary, tmp_path):
    folder = tmp_path / "unpacked"
    folder.mkdir()
    with unpacking.unpacked(folder, keep=False) as place:
        assert place == folder
    assert folder.is_dir()
    assert list(temporary.iterdir()) == []


def test_what_a_gpu_reads_later_stays_until_the_end(temporary, package, removed_at_exit):
    with unpacking.unpacked(package, keep=True) as place:
        pass
    assert place.is_dir()
    unpacking.sweep()
    assert place.is_dir()  # it is locked
    ((function, given),) = removed_at_exit
    function(*given)
    assert list(temporary.iterdir()) == []


def test_nothing_stays_of_a_package_that_fails(temporary, package, removed_at_exit):
    with pytest.raises(RuntimeError, match="no"), unpacking.unpacked(package, keep=True):
        raise RuntimeError("no")
    package.write_bytes(b"no zip")
    with pytest.raises(zipfile.BadZipFile), unpacking.unpacked(package, keep=True):
        pass
    assert list(temporary.iterdir()) == []
    assert removed_at_exit == []


def test_what_a_killed_process_left_is_removed_by_the_next(temporary, package):
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        from handlers.loading import unpacking
        unpacking.takes_folders = lambda: True
        with unpacking.unpacked(Path({str(package)!r}), keep=True):
            print("there", flush=True)
            time.sleep(600)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        assert process.stdout.readline() == "there\n"
        (left,) = temporary.iterdir()
        unpacking.sweep()
        assert left.is_dir()  # it lives
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert left.is_dir()
    other = temporary / "of-somebody-else"
    other.mkdir()
    with unpacking.unpacked(package, keep=False):
        assert not left.exists()
    assert list(temporary.iterdir()) == [other]


def test_another_users_folder_is_not_touched(temporary, monkeypatch):
    folder = temporary / "torchmar-aot-x"
    folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    unpacking.sweep()
    assert folder.is_dir()


def test_a_folder_that_was_swept_before_it_was_locked_is_made_anew(temporary, package, monkeypatch):
    real, seen = tempfile.mkdtemp, []

    def made_and_swept(**options):
        folder = real(**options)
        seen.append(folder)
        if len(seen) == 1:
            Path(folder).rmdir()
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", made_and_swept)
    with unpacking.unpacked(package, keep=False) as place:
        assert place.is_relative_to(seen[1])


@pytest.fixture
def older(tmp_path, monkeypatch):
    """Imitate an older torch, which unpacks by itself; return a function that lets it load a package into a folder."""
    maps, places = tmp_path / "maps", tmp_path / "places"
    places.mkdir()
    monkeypatch.setattr(unpacking, "takes_folders", lambda: False)
    monkeypatch.setattr(unpacking, "_MAPS", maps)
    monkeypatch.setattr(unpacking, "_TORCHS", places)
    before = f"7f00-7f01 r-xp 0 08:01 1  {places}/AbCdEf/data/aotinductor/model/a.so\n7f03-7f04 rw-p 0 0 0\n"

    def load(package, name, *, keep=False, mode=0o700):
        folder = places / name
        maps.write_text(before)
        with unpacking.unpacked(package, keep=keep) as place:
            assert place == package
            folder.mkdir(mode=mode)
            folder.chmod(mode)
            maps.write_text(f"{before}7f05-7f06 r-xp 0 08:01 2  {folder}/model/data/aotinductor/model/b.wrapper.so\n")
        return folder

    (places / "AbCdEf").mkdir(mode=0o700)
    return load


def test_what_an_older_torch_unpacks_is_found_by_its_code_in_memory(package, older):
    assert not older(package, "GhIjKl").exists()
    assert not older(package, "aotinductor_GhIjKl").exists()
    assert older(package, "MnOpQr", keep=True).exists()
    assert (older(package, "StUvWx").parent / "AbCdEf").exists()


@pytest.mark.parametrize(("name", "mode"), [("longer-than-that", 0o700), ("six", 0o700), ("models", 0o755)])
def test_a_folder_that_is_none_of_torchs_is_not_touched(package, older, name, mode):
    assert older(package, name, mode=mode).exists()
