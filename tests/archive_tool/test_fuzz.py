"""Whatever the bytes: opened, verified and unpacked, or an ArchiveError, in bounded time and memory."""

import itertools
import json
import shutil
import time
import tracemalloc
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import archive_tool
from archive_tool.errors import ArchiveError
from archive_tool.issues import Kind
from archive_tool.verification.extraction import open_archive
from archive_tool.verification.verify import verify

from .hostile import Member, archive, attack, checkpoint

#: Far more than any of these archives of a few kilobytes may take; without bounds it is gigabytes and minutes.
MEMORY = 150_000_000
SECONDS = 20
SETTINGS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def survives(path, tmp_path):
    """Check the invariant; only the archive and the target are in the folder afterwards."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    before = sorted(item.name for item in tmp_path.iterdir())
    tracemalloc.start()
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = verify(path)
        json.dumps(result.to_dict())
        try:
            with open_archive(path) as opened:
                opened.extract(out)
                names = {member.name for member in opened.members}
        except ArchiveError:
            assert result.kind is not None
            assert not out.exists()
        else:
            assert result.kind is None
            assert tree(out) == names
    assert time.process_time() - begun < SECONDS
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()
    shutil.rmtree(out, ignore_errors=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return the bytes of archives of each packed format, with weights, text and a config file."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "h.py").write_text("def handle(data, context): return data\n" * 20)
    (folder / "w.pt").write_bytes(checkpoint(b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u."))
    (folder / "c.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\n")
    found = []
    for archive_format in ("default", "zip-store", "tgz"):
        result = archive_tool.build(
            model_name="m",
            handler=folder / "h.py",
            serialized_file=folder / "w.pt",
            config_file=folder / "c.yaml",
            export_path=folder,
            archive_format=archive_format,
            force=True,
        )
        found.append(result.path.read_bytes())
    found.append(archive(Member(b"w.pt", checkpoint(attack()), 8, 8), Member(b"a.txt", b"a" * 500, 8, 8)))
    return found


CHANGES = st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=8)
#: Numbers that sizes and offsets are attacked with, over four bytes at a place.
NUMBERS = st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 0x04034B50, 0x02014B50, 0x06054B50, 0x08074B50])


@SETTINGS
@given(
    which=st.integers(0, 3),
    changes=CHANGES,
    words=st.lists(st.tuples(st.integers(0, 6000), NUMBERS), max_size=3),
    cut=st.integers(0, 4000) | st.none(),
    again=st.integers(0, 3) | st.none(),
)
@example(which=0, changes=[], words=[], cut=None, again=None)
@example(which=3, changes=[], words=[], cut=None, again=0)
def test_mutated_archives(good, tmp_path, which, changes, words, cut, again):
    data = bytearray(good[which])
    for position, value in changes:
        data[position % len(data)] = value
    for position, number in words:
        place = position % max(1, len(data) - 4)
        data[place : place + 4] = number.to_bytes(4, "little")
    if cut is not None:
        del data[max(0, len(data) - cut % len(data)) :]
    if again is not None:
        data += good[again]
    path = tmp_path / "x.mar"
    path.write_bytes(data)
    survives(path, tmp_path)


NAMES = st.sampled_from(["a", "A", "a/b", "../x", "/x", "h.py", "w.pt", "é", "é", "con", "a\\b", "x\0y", "d/", ""])
BODIES = st.sampled_from(
    [b"", b"text", attack(), attack(0), checkpoint(attack()), bytes(3000), b"\x93NUMPY\1\0", b"PK\3\4"]
)
MEMBERS = st.builds(
    Member,
    NAMES.map(str.encode),
    BODIES,
    method=st.sampled_from([0, 8]),
    flags=st.sampled_from([0, 8, 0x800, 0x808, 1]),
    before=st.sampled_from([b"", b"", b"\0"]),
    tail=st.sampled_from([b"", b"", b"PK\3\4"]),
    central=st.none() | st.fixed_dictionaries({}, optional={
        "name": NAMES.map(str.encode), "size": st.integers(0, 2**32 - 1), "packed": st.integers(0, 5000),
        "offset": st.integers(0, 5000), "method": st.sampled_from([0, 8, 12]), "flags": st.sampled_from([0, 1, 8]),
        "extra": st.sampled_from([b"", b"\1\0\x08\0" + b"\xff" * 8, b"\x75\x70\5\0\1\0\0\0\0"])}),
    descriptor=st.sampled_from([None, b"", bytes(16)]),
    listed=st.booleans(),
)  # fmt: skip


@SETTINGS
@given(st.lists(MEMBERS, max_size=4), st.sampled_from([b"", b"x"]), st.sampled_from([b"", b"PK\5\6"]))
def test_archives_by_hand(tmp_path, members, between, comment):
    path = tmp_path / "x.mar"
    path.write_bytes(archive(*members, between=between, comment=comment))
    survives(path, tmp_path)


PARTS = st.sampled_from(["a", "b.pt", "c.py", ".git", "MAR-INF", "MANIFEST.json", "con", "A"])
MANIFESTS = st.sampled_from(
    [
        b"{",
        b"[]",
        b'{"model": {"modelName": "m", "configFile": "../x"}}',
        b'{"model": {"modelName": "m", "handler": "a"}}',
    ]
)


@SETTINGS
@given(st.lists(st.tuples(st.lists(PARTS, min_size=1, max_size=3), BODIES | MANIFESTS, st.booleans()), max_size=5))
def test_folders(tmp_path, files):
    folder = tmp_path / "m"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for parts, data, linked in files:
        path = folder.joinpath(*parts)
        if any(above.is_file() or above.is_symlink() for above in (path, *path.parents)) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if linked:
            path.symlink_to(Path("..", "outside"))
        else:
            path.write_bytes(data)
    survives(folder, tmp_path)


def test_what_good_archives_are(good, tmp_path):
    """The mutations start from archives that are good, but for the last, which is not."""
    kinds = []
    for data in good:
        (tmp_path / "x.mar").write_bytes(data)
        kinds.append(verify(tmp_path / "x.mar").kind)
    assert kinds == [None, None, None, Kind.UNSAFE]


def test_each_byte_changed(good, tmp_path):
    """No single byte of a zip can be changed such that it is good and holds something else."""
    data = good[1]
    path = tmp_path / "x.mar"
    path.write_bytes(data)
    with open_archive(path) as opened:
        whole = {member.name: opened.read(member.name, 10**6) for member in opened.members}
    for position in itertools.islice(range(len(data)), 0, None, 7):
        changed = bytearray(data)
        changed[position] ^= 0x55
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if verify(path).kind is not None:
                continue
        with open_archive(path) as opened:
            assert {member.name: opened.read(member.name, 10**6) for member in opened.members} == whole


def test_any_bytes(tmp_path):
    for data in (b"PK", b"PK\5\6" + bytes(18), b"\x1f\x8b", b"\x1f\x8b\x08" + bytes(20), b"PK\3\4" + bytes(100)):
        (tmp_path / "x.mar").write_bytes(data)
        survives(tmp_path / "x.mar", tmp_path)
