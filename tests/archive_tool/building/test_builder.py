"""`archive_tool.build` from Python."""

import hashlib
import inspect
import json
import os
import sys
import threading
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import archive_tool
from archive_tool import BuildError, TargetExistsError
from archive_tool.metadata.record import Record, Sample, TensorSpec
from archive_tool.version import __version__


def test_the_result_says_what_was_written(options):
    result = archive_tool.build(**options)
    assert result.path == Path("store/m.mar")
    assert result.size == result.path.stat().st_size
    assert result.members == ("h.py", "model.py", "weights.pt", "MAR-INF/MANIFEST.json")
    assert result.warnings == ()
    assert result.seconds > 0
    assert not result.replaced
    with zipfile.ZipFile(result.path) as archive:
        assert json.loads(archive.read("MAR-INF/MANIFEST.json")) == result.manifest.to_dict()
    assert result.manifest.to_dict() == {
        "createdOn": "01/01/1980 00:00:00",
        "runtime": "python",
        "model": {
            "modelName": "m",
            "serializedFile": "weights.pt",
            "handler": "h.py",
            "modelFile": "model.py",
            "modelVersion": "1.0",
        },
        "archiverVersion": __version__,
        "torchmar": {
            "formatVersion": 1,
            "toolVersion": __version__,
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "frameworks": {"torch": version("torch").split("+")[0]},
            "members": {
                name: {"sha256": hashlib.sha256(Path(name).read_bytes()).hexdigest(), "size": Path(name).stat().st_size}
                for name in ("h.py", "model.py", "weights.pt")
            },
        },
    }
    assert archive_tool.build(**options, force=True).replaced


def test_every_parameter_is_keyword_only():
    parameters = inspect.signature(archive_tool.build).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


def test_size_of_a_folder(options):
    result = archive_tool.build(**options, archive_format="no-archive")
    assert result.size == sum(path.stat().st_size for path in Path("store/m").rglob("*") if path.is_file())


def test_the_current_folder_is_the_default(options):
    del options["export_path"]
    assert archive_tool.build(**options).path == Path("m.mar")


def test_source_date_epoch(options, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    result = archive_tool.build(**options)
    assert result.manifest.created_on == "14/11/2023 22:13:20"
    with zipfile.ZipFile(result.path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"model_name": "a b"}, "model name 'a b'", "letters"),
        ({"handler": ""}, "names no handler", "built-in"),
        ({"runtime": "java"}, "'java' is no runtime", "python, python3, LSP"),
        ({"archive_format": "rar"}, "'rar' is no archive format", "default, zip-store"),
        ({"export_path": "no/where"}, "no/where does not exist", "mkdir -p no/where"),
        ({"export_path": "h.py"}, "h.py is not a directory", None),
        ({"serialized_file": "gone.pt"}, "gone.pt does not exist", None),
        ({"extra_files": "a\0b"}, "null", None),
        ({"compress": True, "archive_format": "zip-store"}, "zip-store is never compressed", "--compress"),
        ({"compress": True, "archive_format": "no-archive"}, "no-archive is never compressed", "--compress"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(options, change, message, hint):
    with pytest.raises(BuildError) as caught:
        archive_tool.build(**options | change)
    assert message in str(caught.value)
    assert (hint or "") in (caught.value.hint or "")
    assert list(Path("store").iterdir()) == []


def test_an_existing_archive(options):
    archive_tool.build(**options)
    before = Path("store/m.mar").read_bytes()
    with pytest.raises(TargetExistsError):
        archive_tool.build(**options | {"version": "2.0"})
    assert Path("store/m.mar").read_bytes() == before


def test_warnings_come_with_the_result(options):
    Path("c.yaml").write_text("batch_size: 4\n")
    result = archive_tool.build(**options, extra_files="*.none", config_file="c.yaml")
    assert len(result.warnings) == 2
    assert result.warnings[1].startswith("c.yaml:1: batch_size is no setting")


def test_empty_texts_mean_not_given(options):
    result = archive_tool.build(
        **options | {"version": "", "extra_files": "", "requirements_file": "", "config_file": ""}
    )
    assert "modelVersion" not in result.manifest.to_dict()["model"]
    assert len(result.members) == 4


def test_path_objects(work):
    result = archive_tool.build(
        model_name="m",
        handler=work / "h.py",
        serialized_file=work / "weights.pt",
        extra_files=[work / "model.py"],
        export_path=work / "store",
    )
    assert result.path == work / "store" / "m.mar"
    assert result.manifest.model.handler == "h.py"


def test_what_else_the_manifest_says(options):
    given = Record(
        frameworks={"timm": "1.0"},
        description="replaced",
        inputs=(TensorSpec("x", "float32", (None, 3)),),
        samples=(Sample("s.png"),),
        metrics={"accuracy": 0.5},
    )
    found = archive_tool.build(**options, record=given, description="a net", licence="MIT").manifest.record
    assert (found.description, found.licence) == ("a net", "MIT")
    assert set(found.frameworks) == {"torch", "timm"}
    assert (found.inputs, found.samples, found.metrics) == (given.inputs, given.samples, given.metrics)
    assert found.tool_version == __version__
    empty = archive_tool.build(**options, force=True, description="", licence="").manifest.to_dict()["torchmar"]
    assert not {"description", "licence"} & set(empty)


def test_the_package_that_loads_the_weights_is_recorded(options):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    Path("weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    record = archive_tool.build(**options | {"serialized_file": "weights.safetensors"}).manifest.record
    assert record.frameworks["safetensors"] == version("safetensors")


@pytest.mark.parametrize("archive_format", ["default", "tgz"])
def test_two_machines_give_one_archive(tmp_path, torchmar_process, archive_format):
    """Another folder, another order and time of the files, another user's settings, another number of cores."""
    digests = set()
    names = ["h.py", "weights.pt", "é.txt", "large.txt"]
    contents = [b"def handle(data, context): return data\n", bytes(200_000), b"\xc3\xa4", b"some text " * 300_000]
    pairs = list(zip(names, contents, strict=True))
    for number, (folder, order) in enumerate((("one", pairs), ("two/deeper", pairs[::-1]))):
        place = tmp_path / folder
        place.mkdir(parents=True)
        for name, data in order:
            (place / name).write_bytes(data)
            (place / name).chmod(0o600 + number)
            os.utime(place / name, (number * 10**9, number * 10**9))
        environment = {
            "TZ": ("UTC", "Asia/Tokyo")[number],
            "LC_ALL": ("C", "C.UTF-8")[number],
            "PYTHONHASHSEED": str(number),
            "HOME": str(place),
            "USER": folder,
        }
        done = torchmar_process(
            *("build", "--model-name", "m", "--handler", "h.py", "--serialized-file", "weights.pt", "--compress"),
            *("--extra-files", ["é.txt,large.txt", "large.txt,é.txt"][number], "--archive-format", archive_format),
            cwd=place,
            env=environment,
            preexec_fn=one_core if number else None,
        )
        assert done.returncode == 0, done.stderr
        (path,) = place.glob("m.*")
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def one_core():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def test_compress(options):
    for archive_format in ("default", "tgz"):
        archive_tool.build(**options, archive_format=archive_format, compress=True)
    with archive_tool.open_archive("store/m.mar") as archive:
        assert {member.method for member in archive.members} == {"deflated"}


def test_progress(options):
    told = []
    archive_tool.build(**options, progress=lambda done, total: told.append((done, total)))
    total = sum(Path(name).stat().st_size for name in ("h.py", "model.py", "weights.pt"))
    assert told[-1] == (total, total)


def test_two_builds_of_one_name_into_two_stores(options):
    """torch-model-archiver stages both in one folder, where they delete each other's files."""
    for name in ("one", "two"):
        Path(name).mkdir()
        Path(name, "data.bin").write_bytes(name.encode() * 100_000)
    results = {}

    def run(name):
        results[name] = archive_tool.build(
            **options | {"export_path": name}, extra_files=f"{name}/data.bin", archive_format="tgz"
        )

    threads = [threading.Thread(target=run, args=[name]) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, result in results.items():
        with archive_tool.open_archive(result.path) as archive:
            assert archive.read("data.bin", 1 << 20) == name.encode() * 100_000


def test_the_archive_may_have_another_name_than_the_model(options):
    result = archive_tool.build(**options, archive_name="m-1.0")
    assert result.path == Path("store/m-1.0.mar")
    assert result.manifest.model.model_name == "m"
    with pytest.raises(BuildError, match="'m/1'"):
        archive_tool.build(**options, archive_name="m/1")


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_the_hook_sees_the_whole_archive_under_another_name(options, archive_format):
    seen = []

    def hook(path):
        with archive_tool.open_archive(path) as archive:
            seen.append({member.name for member in archive.members})
        assert not Path("store/m.mar").exists()
        assert path.parent == Path("store")

    result = archive_tool.build(**options, archive_format=archive_format, before_publish=hook)
    assert seen == [set(result.members)]


@pytest.mark.parametrize("archive_format", ["default", "no-archive"])
@pytest.mark.parametrize("error", [BuildError("no"), KeyboardInterrupt()])
def test_what_the_hook_raises_ends_the_build(options, archive_format, error):
    result = archive_tool.build(**options, archive_format=archive_format)
    before = [path.name for path in Path("store").rglob("*")]

    def hook(path):
        raise error

    with pytest.raises(type(error)):
        archive_tool.build(**options, archive_format=archive_format, force=True, before_publish=hook)
    assert [path.name for path in Path("store").rglob("*")] == before
    assert result.path.exists()
