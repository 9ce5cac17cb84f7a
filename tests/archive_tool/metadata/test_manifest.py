"""The manifest: read what any tool wrote, write what torch-model-archiver would."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.errors import BuildError, UnreadableArchiveError
from archive_tool.metadata.manifest import ZIP_EPOCH, Manifest, Model, build_time, format_time, new_manifest
from archive_tool.version import __version__

from .test_names import HOSTILE_NAMES, HOSTILE_VERSIONS, VERSIONS

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MODEL_KEYS = ["serializedFile", "handler", "modelFile", "modelVersion", "requirementsFile", "configFile"]
models = st.builds(
    lambda name, known, unknown: {**unknown, **known, "modelName": name},
    st.text("aZ0", min_size=1),
    st.dictionaries(st.sampled_from(MODEL_KEYS), st.text("aZ0.+-ü", min_size=3)),
    st.dictionaries(st.text().filter(lambda key: key not in ("extensions", *MODEL_KEYS)), json_values, max_size=3),
)
manifests = st.builds(
    lambda model, known, unknown: {**unknown, **known, "model": model},
    models,
    st.dictionaries(st.sampled_from(["createdOn", "archiverVersion"]), st.text()).map(
        lambda known: {"runtime": "python3", **known}
    ),
    st.dictionaries(
        st.text().filter(lambda key: key not in ("createdOn", "runtime", "archiverVersion")), json_values, max_size=3
    ),
)


@given(manifests)
def test_reading_and_writing_keeps_everything(document):
    manifest = Manifest.from_dict(document)
    assert manifest.to_dict() == document
    assert Manifest.from_json(manifest.to_json()) == manifest


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_manifest_or_our_error(data):
    with contextlib.suppress(UnreadableArchiveError):
        assert isinstance(Manifest.from_json(data), Manifest)


def test_text_is_that_of_torch_model_archiver():
    model = Model("m", "h.py:f", "w.pt", "net.py", "2.0", requirements_file="r.txt", config_file="c.yaml")
    text = new_manifest(model, runtime="python3", seconds=ZIP_EPOCH).to_json().decode()
    assert text == (
        "{\n"
        '  "createdOn": "01/01/1980 00:00:00",\n'
        '  "runtime": "python3",\n'
        '  "model": {\n'
        '    "modelName": "m",\n'
        '    "serializedFile": "w.pt",\n'
        '    "handler": "h.py:f",\n'
        '    "modelFile": "net.py",\n'
        '    "modelVersion": "2.0",\n'
        '    "requirementsFile": "r.txt",\n'
        '    "configFile": "c.yaml"\n'
        "  },\n"
        f'  "archiverVersion": "{__version__}"\n'
        "}"
    )


def test_a_manifest_of_mxnet_model_server_loads():
    document = {
        "specificationVersion": "1.0",
        "implementationVersion": "1.0",
        "description": "a net",
        "modelServerVersion": "1.0",
        "license": "Apache 2.0",
        "runtime": "python2.7",
        "model": {"modelName": "squeezenet", "description": "x", "modelVersion": 1.5, "handler": "service:handle"},
        "engine": {"engineName": "MXNet", "engineVersion": "1.2"},
        "publisher": {"author": "a", "email": "b"},
    }
    manifest = Manifest.from_dict(document)
    assert manifest.created_on is None
    assert manifest.model.model_version == "1.5"
    assert manifest.extra["engine"] == {"engineName": "MXNet", "engineVersion": "1.2"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the document: expected an object, got []"),
        ({}, "model is missing"),
        ({"model": 1}, "model: expected an object, got 1"),
        ({"model": {}}, "model.modelName is missing"),
        ({"model": {"modelName": "m", "handler": 3}}, "model.handler: expected a string, got 3"),
        ({"model": {"modelName": "m", "configFile": ["a"]}}, 'model.configFile: expected a string, got ["a"]'),
        ({"model": {"modelName": "m"}, "runtime": True}, "runtime: expected a string, got true"),
    ],
)
def test_errors_name_the_path(document, message):
    with pytest.raises(UnreadableArchiveError) as caught:
        Manifest.from_dict(document)
    assert caught.value.message == message
    assert caught.value.where == "MAR-INF/MANIFEST.json"


def test_not_json():
    with pytest.raises(UnreadableArchiveError, match="not JSON"):
        Manifest.from_json(b"[" * 100_000)


def test_build_time(monkeypatch):
    assert format_time(build_time()) == "01/01/1980 00:00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert format_time(build_time()) == "14/11/2023 22:13:20"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert build_time() == ZIP_EPOCH


@pytest.mark.parametrize("text", ["now", "-1", "1.5", "٣", "9" * 5000, "253402300800"])
def test_a_bad_source_date_epoch_is_told(monkeypatch, text):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(BuildError, match="SOURCE_DATE_EPOCH"):
        build_time()


@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if name])
def test_a_name_that_build_would_not_have_written(name):
    document = {"runtime": "python", "model": {"modelName": name, "handler": "h.py"}}
    with pytest.raises(UnreadableArchiveError, match=r"model\.modelName") as refused:
        Manifest.from_json(json.dumps(document).encode())
    assert "--model-name" in refused.value.hint
    assert len(refused.value.message) < 250


@pytest.mark.parametrize("version", HOSTILE_VERSIONS)
def test_a_version_that_build_would_not_have_written(version):
    document = {"runtime": "python", "model": {"modelName": "m", "modelVersion": version, "handler": "h.py"}}
    with pytest.raises(UnreadableArchiveError, match=r"model\.modelVersion") as refused:
        Manifest.from_json(json.dumps(document).encode())
    assert refused.value.hint
    assert len(refused.value.message) < 250


@pytest.mark.parametrize("version", [*VERSIONS, "", None, 1, 2.5])
def test_versions_that_are_served(version):
    document = {"runtime": "python", "model": {"modelName": "m", "modelVersion": version, "handler": "h.py"}}
    found = Manifest.from_json(json.dumps(document).encode()).model.model_version
    assert found == (None if version is None else str(version))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_manifest_that_the_frontend_cannot_read(encoding):
    document = '{"runtime": "python", "model": {"modelName": "m", "handler": "h.py"}}'
    with pytest.raises(UnreadableArchiveError, match="the manifest is not JSON"):
        Manifest.from_json(document.encode(encoding))


def test_a_manifest_that_says_something_twice():
    text = b'{"runtime": "python", "model": {"modelName": "m", "handler": "h.py", "handler": "os:system"}}'
    with pytest.raises(UnreadableArchiveError, match='the key "handler" is there twice'):
        Manifest.from_json(text)


def test_the_files_of_a_model():
    model = Model("m", "h.py", serialized_file="w.pt", config_file="c.yaml", model_file="")
    assert list(model.files.items()) == [("serializedFile", "w.pt"), ("configFile", "c.yaml")]
