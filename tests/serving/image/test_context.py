"""A context, written for real."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

import archive_tool
from archive_tool.errors import InputError, TargetExistsError, UnreadableArchiveError
from serving.image import bill, wheel
from serving.image.context import write_context


@pytest.fixture
def archives(tmp_path: Path) -> list[Path]:
    (tmp_path / "h.py").write_text("def handle(data, context):\n    return data\n")
    (tmp_path / "r.txt").write_text("requests>=2\n")
    store = tmp_path / "store"
    store.mkdir()
    archive_tool.build(model_name="a", handler=tmp_path / "h.py", export_path=store)
    archive_tool.build(
        model_name="b", handler=tmp_path / "h.py", export_path=store, requirements_file=tmp_path / "r.txt"
    )
    archive_tool.build(model_name="c", handler=tmp_path / "h.py", export_path=store, archive_format="no-archive")
    return [store / "a.mar", store / "b.mar", store / "c"]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_has_all_that_its_dockerfile_copies_and_nothing_else(archives: list[Path], tmp_path: Path) -> None:
    config = tmp_path / "some.properties"
    config.write_text("job_queue_size=7\n")
    target = write_context(archives, tmp_path / "new" / "image", config=config)
    text = (target / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert {path.name for path in target.iterdir()} == copied | {"Dockerfile"}
    for archive in archives[:2]:
        assert (target / "model_store" / archive.name).read_bytes() == archive.read_bytes()
    assert names(target / "model_store" / "c") == names(archives[2])
    assert names(target / "requirements") == ["1.txt"]
    assert (target / "requirements" / "1.txt").read_text() == "requests>=2\n"
    assert (target / "config.properties").read_text() == "job_queue_size=7\n"
    assert not list(tmp_path.glob("new/.torchmar-*"))


def test_the_same_archives_give_the_same_bytes(archives: list[Path], tmp_path: Path) -> None:
    one, two = (write_context(archives, tmp_path / name) for name in ("one", "two"))
    assert names(one) == names(two)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names(one))


def test_only_a_context_of_ours_is_replaced_and_only_if_asked(archives: list[Path], tmp_path: Path) -> None:
    target = write_context(archives, tmp_path / "image")
    with pytest.raises(TargetExistsError, match="exists already"):
        write_context(archives, target)
    write_context(archives[:1], target, force=True)
    assert names(target / "model_store") == ["a.mar"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(TargetExistsError, match="has not written it"):
        write_context(archives, mine, force=True)
    assert names(mine) == ["Dockerfile"]


def test_what_cannot_be_an_image_leaves_nothing(archives: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "out" / "image"
    (tmp_path / "empty.mar").touch()
    (tmp_path / "text.zip").touch()
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.mar").symlink_to(archives[0])
    (other / "same.mar").write_bytes(archives[0].read_bytes())
    with zipfile.ZipFile(tmp_path / "bare.mar", "w") as bare:
        bare.writestr("h.py", "")
    cases = [
        (tmp_path / "gone.mar", InputError, "no such archive"),
        (tmp_path / "text.zip", InputError, "no archive by its name"),
        (tmp_path / "empty.mar", UnreadableArchiveError, "empty.mar"),
        (tmp_path / "bare.mar", UnreadableArchiveError, "no manifest"),
        (other / "a.mar", InputError, "two archives are called a.mar"),
        (other / "same.mar", InputError, "are both a 1.0"),
    ]
    for path, kind, text in cases:
        with pytest.raises(kind, match=text):
            write_context([*archives, path], target)
    with pytest.raises(InputError, match="no such configuration"):
        write_context(archives, target, config=tmp_path / "gone.properties")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_user_of_the_image_may_read_it_whoever_writes_it(archives: list[Path], tmp_path: Path) -> None:
    (archives[2] / "h.py").chmod(0o600)
    config = tmp_path / "c.properties"
    config.touch()
    before = os.umask(0o077)
    try:
        target = write_context(archives, tmp_path / "image", config=config)
    finally:
        os.umask(before)
    closed = [
        path
        for path in (target, *target.rglob("*"))
        if path.stat().st_mode & 0o777 != (0o755 if path.is_dir() else 0o644)
    ]
    assert closed == []


def test_it_is_not_written_into_an_archive_of_its_own(archives: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(archives[2])
    for target in (archives[2], archives[2] / "new" / "image", tmp_path / "link" / "image"):
        with pytest.raises((InputError, TargetExistsError), match=r"is in the archive|has not written it"):
            write_context(archives, target)
    assert not (archives[2] / "new").exists()


def test_the_wheel_has_this_very_code(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel.write_wheel(tmp_path)) as found:
        files = {name: found.read(name) for name in found.namelist()}
    assert files["serving/image/wheel.py"] == Path(wheel.__file__).read_bytes()
    assert "serving/worker/home/ts/model_service_worker.py" in files  # started by its path
    (info,) = {name.partition("/")[0] for name in files if ".dist-info/" in name}
    assert b"torchmar = archive_tool.__main__:main" in files[f"{info}/entry_points.txt"]
    assert b"Name: torchmar\n" in files[f"{info}/METADATA"]
    rows = dict(row.split(",", 1) for row in files.pop(f"{info}/RECORD").decode().splitlines())
    assert rows.pop(f"{info}/RECORD") == ","
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert rows.pop(name) == f"sha256={digest},{len(data)}"
    assert rows == {}


def test_the_bill_names_what_is_installed_and_the_archives(
    archives: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bill.main([str(archives[0].parent)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    found = document["components"]
    assert len({entry["bom-ref"] for entry in found}) == len(found)
    models = [entry for entry in found if entry["type"] == "machine-learning-model"]
    assert [(entry["name"], entry["version"]) for entry in models] == [("a", "1.0"), ("b", "1.0"), ("c", "1.0")]
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    assert models[0]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    libraries = {entry["name"]: entry for entry in found if entry["type"] == "library"}
    installed = {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one.version for one in distributions()}
    assert libraries.keys() == installed.keys()
    assert libraries["click"]["purl"] == f"pkg:pypi/click@{installed['click']}"
