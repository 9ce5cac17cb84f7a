"""Requests that are stored in an archive."""

import json
import mimetypes
from pathlib import Path

import pytest

import archive_tool
from archive_tool import BuildError
from archive_tool.building import samples
from archive_tool.building.report import Report
from archive_tool.building.samples import GivenSample
from archive_tool.metadata.manifest import Model, new_manifest
from archive_tool.metadata.record import Record, Sample
from archive_tool.writing.plan import Plan


def read(text):
    report = Report()
    found = samples.read(text, report)
    return found, [str(problem) for problem in report.errors]


def stored(result):
    with archive_tool.open_archive(result.path) as archive:
        record = archive.manifest.record
        return {
            sample.input: (
                sample.content_type,
                archive.read(sample.input, 1000),
                sample.expected and (sample.expected, archive.read(sample.expected, 1000)),
            )
            for sample in record.samples
        }


@pytest.fixture
def files(work):
    Path("in.json").write_text('{"a": 1}')
    Path("out.json").write_text("[1]")
    Path("a=b.png").write_bytes(b"png")
    return work


def test_a_file_alone(files):
    assert read("in.json") == (GivenSample("in.json", Path("in.json")), [])
    assert read("a=b.png") == (GivenSample("a=b.png", Path("a=b.png")), [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in.json=out.json", b"[1]"),
        ("in.json=7", b"7"),
        ("in.json=a=b", b"a=b"),
        ("in.json=", b""),
        ("a=b.png=cat", b"cat"),
    ],
)
def test_an_expected_answer(files, text, expected):
    found, problems = read(text)
    assert problems == []
    assert found.expected == expected
    assert found.name in ("in.json", "a=b.png")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gone.png", "--sample: the file gone.png does not exist"),
        ("gone.png=7", "--sample: the file gone.png does not exist"),
        ("in.jsn", "did you mean in.json?"),
        ("in.json=gone.json", "--sample: the file gone.json does not exist"),
        ("in.json=gone.txt", "--sample: the file gone.txt does not exist"),
        ("store", "store is a directory"),
    ],
)
def test_mistakes(files, text, problem):
    found, problems = read(text)
    assert found is None
    assert any(problem in one for one in problems)


def test_an_archive_with_samples(files, options):
    result = archive_tool.build(**options, sample=["in.json=out.json", "a=b.png=cat", "in.json=7", "a=b.png"])
    assert stored(result) == {
        "MAR-INF/samples/0/input.json": ("application/json", b'{"a": 1}', ("MAR-INF/samples/0/expected.json", b"[1]")),
        "MAR-INF/samples/1/input.png": ("image/png", b"png", ("MAR-INF/samples/1/expected.txt", b"cat")),
        "MAR-INF/samples/2/input.json": ("application/json", b'{"a": 1}', ("MAR-INF/samples/2/expected.json", b"7")),
        "MAR-INF/samples/3/input.png": ("image/png", b"png", None),
    }
    names = [name for name in result.members if name != "MAR-INF/MANIFEST.json"]
    assert names == sorted(names)
    assert result.members[-1] == "MAR-INF/MANIFEST.json"


def test_samples_from_python(files, options):
    given = [GivenSample("x.npy", b"numbers", b"\xff", "application/x-npy"), GivenSample("no suffix.$$$", b"1")]
    assert stored(archive_tool.build(**options, sample=given)) == {
        "MAR-INF/samples/0/input.npy": ("application/x-npy", b"numbers", ("MAR-INF/samples/0/expected.bin", b"\xff")),
        "MAR-INF/samples/1/input": ("application/octet-stream", b"1", None),
    }


def test_mistakes_end_the_build_with_all_others(files, options):
    Path("h.py").write_text("x = 1\n")
    with pytest.raises(BuildError, match="2 problems"):
        archive_tool.build(**options, sample=["gone.png"])
    assert list(Path("store").iterdir()) == []


def test_files_in_the_place_of_the_samples(files, options):
    Path("extra/mar-inf/Samples").mkdir(parents=True)
    Path("extra/mar-inf/Samples/x").touch()
    with pytest.raises(BuildError, match="is in the place of the samples"):
        archive_tool.build(**options, extra_files="extra", sample=["in.json"])


def test_a_sample_that_the_frontend_would_refuse(files, options):
    Path("big.bin").write_bytes(bytes(samples.MAX_REQUEST + 1))
    (warning,) = archive_tool.build(**options, sample=["big.bin"]).warnings
    assert "TorchServe refuses requests of more than 6553500" in warning
    Path("big.bin").write_bytes(bytes(samples.MAX_REQUEST))
    assert archive_tool.build(**options, force=True, sample=["big.bin"]).warnings == ()
    given = GivenSample("big", bytes(samples.MAX_REQUEST + 1))
    assert len(archive_tool.build(**options, force=True, sample=[given]).warnings) == 1


def test_content_types_do_not_depend_on_the_system(monkeypatch):
    monkeypatch.setitem(mimetypes.types_map, ".json", "application/odd")
    mimetypes.add_type("application/odd", ".json")
    try:
        assert samples.content_type_of("a.json") == "application/json"
    finally:
        mimetypes.init()
    assert samples.content_type_of("a.JPG") == "image/jpeg"
    assert samples.content_type_of("a.webp") == "image/webp"
    assert samples.content_type_of("a.npy") == "application/x-npy"
    assert samples.content_type_of("b.NPZ") == "application/x-npz"
    assert samples.content_type_of("a.safetensors") == "application/safetensors"
    assert samples.content_type_of("a.txt") == "text/plain"
    assert samples.content_type_of("a") == "application/octet-stream"
    # A file's name is no address.
    assert samples.content_type_of("data:text/\u00e9,x") == "application/octet-stream"
    assert samples.content_type_of("data:text/evil,x.png") == "image/png"
    assert samples.content_type_of("http://[x/a.txt") == "text/plain"


def test_the_same_bytes_from_the_same_samples(files, options):
    one = archive_tool.build(**options, sample=["in.json=7"]).path.read_bytes()
    assert archive_tool.build(**options, force=True, sample=["in.json=7"]).path.read_bytes() == one


def test_without_samples_nothing_is_recorded(options):
    manifest = archive_tool.build(**options).manifest
    assert "samples" not in json.dumps(manifest.to_dict())


def test_samples_after_those_that_are_there():
    before = Plan(
        "m", (), new_manifest(Model("m"), runtime="python", seconds=0).with_record(Record(samples=(Sample("x"),))), 0
    )
    after = samples.add(before, [GivenSample("a", b"")], Report())
    assert [sample.input for sample in after.manifest.record.samples] == ["x", "MAR-INF/samples/1/input"]
