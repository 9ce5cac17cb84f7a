"""Archives as MXNet Model Server's archiver wrote them."""

import json
from pathlib import Path

import pytest

import archive_tool
from archive_tool.errors import ArchiveError, BuildError, TargetExistsError, UnreadableArchiveError, UnsafeArchiveError
from archive_tool.projects.convert import convert
from tests.archive_tool.building.test_mms import SERVICE, SIGNATURE

MANIFEST = {
    "runtime": "python",
    "model": {"modelName": "fizbuz_package", "handler": "fizbuz_service"},
    "engine": {"engineName": "MXNet"},
    "license": "Apache-2.0",
    "description": "counts",
    "modelServerVersion": "1.0",
    "implementationVersion": "1.0",
    "specificationVersion": "1.0",
}


@pytest.fixture
def make_old(make_zip):
    """Write an old archive; keywords replace keys of its manifest."""

    def make(service=SERVICE, name="old.mar", more=(), **changes):
        members = [
            ("fizbuz_service.py", service),
            ("signature.json", json.dumps(SIGNATURE)),
            ("fizbuz-symbol.json", "{}"),
            ("data/words.txt", "fizz"),
            ("MAR-INF/MANIFEST.json", json.dumps(MANIFEST | changes)),
            *more,
        ]
        return make_zip(members, name)

    return make


def test_an_archive_is_written_anew(make_old, work):
    built = convert(make_old(), "new.mar")
    assert built.path == Path("new.mar")
    with archive_tool.open_archive(built.path) as archive:
        manifest = archive.manifest
        names = {member.name for member in archive.members}
        assert archive.read("fizbuz_service.py", 10_000).decode() == SERVICE
    assert names == {
        "fizbuz_service.py",
        "signature.json",
        "fizbuz-symbol.json",
        "data/words.txt",
        "MAR-INF/MANIFEST.json",
    }
    assert manifest.runtime == "python"
    assert manifest.archiver_version
    assert (manifest.model.model_name, manifest.model.model_version) == ("fizbuz_package", "1.0")
    assert manifest.model.handler == "fizbuz_service.py"
    record = manifest.record
    assert (record.description, record.licence) == ("counts", "Apache-2.0")
    assert [spec.to_dict() for spec in record.inputs] == [{"name": "input.1", "shape": [None, 10]}]
    assert record.extra == {
        "convertedFrom": {
            "specificationVersion": "1.0",
            "implementationVersion": "1.0",
            "modelServerVersion": "1.0",
            "engine": {"engineName": "MXNet"},
        }
    }
    assert not built.warnings


def test_its_place_and_name(make_old, work):
    old = make_old(model={"modelName": "f", "handler": "fizbuz_service:entry", "modelVersion": "3.1"})
    built = convert(old)
    assert built.path == old.with_name("old-converted.mar")
    assert (built.manifest.model.handler, built.manifest.model.model_version) == ("fizbuz_service.py:entry", "3.1")
    with pytest.raises(TargetExistsError):
        convert(old)
    assert convert(old, force=True).replaced
    with archive_tool.open_archive(convert(old, "f.tar.gz").path) as archive:
        assert archive.archive_format == "tgz"
    for wrong in ("f.zip", "f", ".mar"):
        with pytest.raises(BuildError, match="no name of an archive"):
            convert(old, wrong)


def test_the_same_bytes_every_time(make_old, work):
    old = make_old()
    assert convert(old, "a.mar").path.read_bytes() == convert(old, "b.mar").path.read_bytes()


def test_what_is_told(make_old, work):
    built = convert(make_old("import mxnet\n" + SERVICE, runtime="python2"), "new.mar")
    assert any("imports mxnet" in warning for warning in built.warnings)
    assert any("'python2'" in warning for warning in built.warnings)


def test_code_of_python_2_is_refused(make_old, work):
    with pytest.raises(BuildError, match="is not Python"):
        convert(make_old("print 'fizz'\n"), "new.mar")
    assert not Path("new.mar").exists()


def test_what_is_no_old_archive(make_old, make_zip, work):
    with pytest.raises(UnreadableArchiveError, match="no archive of MXNet Model Server"):
        convert(make_zip([("service.py", SERVICE)]), "new.mar")
    with pytest.raises(BuildError, match="names no handler"):
        convert(make_old(model={"modelName": "m"}), "new.mar")
    with pytest.raises(UnsafeArchiveError):
        convert(make_old(more=[("../x", "x")]), "new.mar")
    with pytest.raises(UnreadableArchiveError):
        convert(work / "h.py", "new.mar")
    new = convert(make_old(), "new.mar").path
    with pytest.raises(ArchiveError, match="for TorchServe already"):
        convert(new, "newer.mar")
    with pytest.raises(ArchiveError, match="for TorchServe already"):
        convert(make_old(archiverVersion="0.12.0"), "newer.mar")
    assert not Path("newer.mar").exists()
