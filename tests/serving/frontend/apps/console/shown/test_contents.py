"""What archives hold, as the model page shows it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from archive_tool.errors import TorchmarError
from serving.frontend.apps.console.shown import contents as module
from serving.frontend.apps.console.shown.contents import Archives, Contents


def test_it_is_read_once_and_again_when_the_file_changes(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    describe = module.describe
    monkeypatch.setattr(
        module, "describe", lambda opened, manifest: looked.append(opened.path) or describe(opened, manifest)
    )
    (tmp_path / "m.mar").write_bytes(archive.read_bytes())
    archives = Archives(tmp_path)
    found = asyncio.run(archives.contents("m.mar"))
    assert asyncio.run(archives.contents("m.mar")) is found
    assert len(looked) == 1
    (tmp_path / "m.mar").write_bytes(archive.read_bytes() + b" ")
    assert asyncio.run(archives.contents("m.mar")) is not found


def test_its_members_have_their_hashes(archive: Path) -> None:
    found = asyncio.run(Archives(archive.parent).contents(archive.name))
    assert not found.error
    assert {row["name"] for row in found.members} >= {"handler.py", "MAR-INF/MANIFEST.json"}
    assert all(len(row["sha256"]) == 64 for row in found.members if row["name"] != "MAR-INF/MANIFEST.json")
    assert [sample.content_type for sample in found.samples] == ["text/plain", "application/json"]


def test_the_sdks_members_come_last() -> None:
    members = [{"name": name, "size": 1} for name in ("a.py", "handlers/base.py", "z.pt")]
    found = Contents(Path("m.mar"), {"sdk": {"version": "1"}, "members": members}).members
    assert [(row["name"], row["sdk"]) for row in found] == [
        ("a.py", False),
        ("z.pt", False),
        ("handlers/base.py", True),
    ]
    own = Contents(Path("m.mar"), {"sdk": None, "members": members}).members
    assert not any(row["sdk"] for row in own), "a folder that is only called like it"


@pytest.mark.parametrize("data", [b"", b"PK", b"nothing of the kind", b"\x1f\x8b" + bytes(40)])
def test_one_that_is_broken_says_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.mar").write_bytes(data)
    found = asyncio.run(Archives(tmp_path).contents("m.mar"))
    assert found.error
    assert found.members == []
    assert asyncio.run(Archives(tmp_path).contents("none.mar")).error == "none.mar: No such file or directory"


def test_many_members_are_not_all_shown(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MEMBERS", 2)
    found = asyncio.run(Archives(archive.parent).contents(archive.name))
    assert len(found.members) == 2
    assert found.left_out == len(found.described["members"]) - 2


def test_where_an_archive_is(tmp_path: Path) -> None:
    archives = Archives(tmp_path)
    assert archives.path_of("m.mar") == tmp_path / "m.mar"
    assert archives.path_of("https://host/a/m.mar?x=y") == tmp_path / "m.mar"
    assert archives.path_of("/models/folder") == Path("/models/folder")
    (tmp_path / "b.mar").touch()
    (tmp_path / "a.txt").touch()
    assert archives.of_store() == ["b.mar"]
    assert Archives(tmp_path / "none").of_store() == []


def test_a_sample_that_is_too_large_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SAMPLE", 3)
    with pytest.raises(TorchmarError, match="longer than 3 bytes"):
        asyncio.run(Archives(archive.parent).sample(archive.name, 0))
