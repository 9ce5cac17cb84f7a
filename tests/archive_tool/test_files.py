"""Paths that are not files: each reader of a file that others may have put there says so, and never waits."""

import os
import signal
import socket
from pathlib import Path

import pytest

from archive_tool import files
from archive_tool.analysis import python_source
from archive_tool.building import checks
from archive_tool.building.looked import Contents
from archive_tool.building.report import Report
from archive_tool.errors import TorchmarError
from archive_tool.projects import project_file
from archive_tool.verification import signing
from archive_tool.verification.verify import verify
from archive_tool.writing.copying import open_source

from .hostile import Member, archive

KINDS = ("pipe", "endless", "socket", "folder", "link to a pipe")


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Put something that is not a regular file where one is read."""
    monkeypatch.chdir(tmp_path)

    def put(kind, name):
        path = Path(name)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "endless":
            path.symlink_to("/dev/zero")
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(name)
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(f"{name}.pipe")
            path.symlink_to(f"{name}.pipe")
        return path

    return put


class Waited(BaseException):
    """A reader waits, or reads without end; no reader catches this."""


@pytest.fixture(autouse=True)
def _waits_for_nobody():
    def ended(*_):
        raise Waited

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [files.open_regular, files.read_regular, files.read_text])
def test_what_is_no_regular_file(kind, read, put):
    with pytest.raises(OSError, match=r"not a regular file|Is a directory") as refused:
        read(put(kind, "x"))
    assert os.fspath(refused.value.filename) == "x"


def test_a_file_is_read_up_to_its_bound(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert files.read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="longer than 4 bytes"):
        files.read_regular(path, 4)
    assert files.read_regular("/proc/self/status", 1 << 20)  # says that it has no bytes
    path.write_bytes("ä\r\nb\rc".encode())
    assert files.read_text(path) == "ä\nb\nc"


def test_descriptors_are_not_inherited_and_not_left_open(put, tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    pipe = put("pipe", "x")
    for _ in range(3):
        with pytest.raises(OSError, match="pipe"):
            files.open_regular(pipe)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    Path("y").write_bytes(b"")
    with files.open_regular("y") as stream:
        assert not os.get_inheritable(stream.fileno())


def reading(name):
    """Return what reads a file beside an archive, or one that is named: by name, each until it has an answer."""
    report = Report()

    def built():
        with open_source(Path(name)):
            pass

    return {
        "the archive": lambda: verify(name).kind,
        "a project file": lambda: project_file.read(Path(name)),
        "a config file": lambda: checks.check_config(Path(name), Contents(), report) or report.raise_errors(),
        "requirements": lambda: checks.check_requirements(Path(name), Contents(), report) or report.raise_errors(),
        "source": lambda: python_source.parse(Path(name)),
        "a source of a member": built,
        "a private key": lambda: signing.sign("m.mar", name),
        "a public key": lambda: signing.check_signature("m.mar", name),
        "a signature": lambda: signing.check_signature("m.mar", "public.pem", signature=name),
    }


@pytest.mark.parametrize("kind", ["pipe", "endless"])
@pytest.mark.parametrize("what", reading(""))
def test_no_reader_waits_or_reads_for_ever(what, kind, put):
    put(kind, "x.py")
    Path("m.mar").write_bytes(archive(Member(b"a", b"1")))
    Path("public.pem").write_text(PUBLIC)
    if what == "the archive":
        assert reading("x.py")[what]() is not None
    else:
        with pytest.raises((TorchmarError, OSError), match=r"regular file|no project file"):
            reading("x.py")[what]()


PUBLIC = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
"""
