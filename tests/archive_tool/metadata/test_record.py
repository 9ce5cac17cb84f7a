"""The record of an archive under our own key of the manifest."""

import contextlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.errors import UnreadableArchiveError
from archive_tool.metadata.manifest import Manifest, Model
from archive_tool.metadata.record import Compiled, MemberRecord, Record, Sample, TensorSpec, installed, python_version

DIGEST = "0123456789abcdef" * 4

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
texts = st.none() | st.text()
shapes = st.none() | st.lists(st.none() | st.integers(0), max_size=4).map(tuple)
others = st.dictionaries(st.text().map("x-".__add__), json_values.filter(lambda value: value is not None), max_size=2)
specs = st.lists(st.builds(TensorSpec, st.text(), texts, shapes, others), max_size=2).map(tuple)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
members = st.builds(MemberRecord, st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(0), others)
words = st.sampled_from(["", "cpu", "ä"])
compiled = st.none() | st.builds(
    Compiled,
    *[words] * 4,
    capability=st.sampled_from([(), ("avx2", "fma")]),
    dtype=st.none() | words,
    inputs=st.sampled_from([(), (TensorSpec("0"), TensorSpec("x", "int64", (None, 3)))]),
    extra=st.sampled_from([{}, {"x-seconds": 9}]),
)
records = st.builds(
    Record,
    tool_version=texts,
    python=texts,
    frameworks=st.dictionaries(st.text(), st.text(), max_size=2),
    description=texts,
    licence=texts,
    inputs=specs,
    outputs=specs,
    samples=st.lists(st.builds(Sample, st.text(), texts, texts, st.none() | st.floats(0, 1), others), max_size=2).map(
        tuple
    ),
    metrics=st.dictionaries(st.text(), numbers, max_size=2),
    compiled=compiled,
    members=st.dictionaries(st.text(), members, max_size=3),
    extra=others,
)

FULL = {
    "formatVersion": 1,
    "toolVersion": "0.1.0",
    "python": "3.11",
    "frameworks": {"numpy": "2.0", "torch": "2.13.0"},
    "description": "digits",
    "licence": "Apache-2.0",
    "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 1, 28, 28], "unit": "grey"}],
    "outputs": [{"name": "y"}],
    "samples": [
        {
            "input": "MAR-INF/samples/0/input.png",
            "contentType": "image/png",
            "expected": "e.json",
            "tolerance": 0,
            "n": 1,
        }
    ],
    "metrics": {"accuracy": 0.98},
    "compiled": {
        "path": "MAR-INF/compiled/model",
        "torch": "2.15.0",
        "platform": "linux-x86_64",
        "device": "cpu",
        "capability": ["avx2", "fma"],
        "dtype": "float32",
        "inputs": [{"name": "0", "dtype": "float32", "shape": [None, 3]}],
        "seconds": 9,
    },
    "members": {"a.py": {"sha256": DIGEST, "size": 0}, "w.pt": {"sha256": DIGEST, "size": 1 << 40, "md5": "x"}},
    "later": {"key": [1]},
}


@given(records)
def test_reading_and_writing_keeps_everything(record):
    # Through JSON and back, and by its text: a NaN among the unknown keys equals nothing, not even itself.
    text = json.dumps(record.to_dict())
    again = Record.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    if "NaN" not in text:
        assert again == record


@given(json_values | st.dictionaries(st.sampled_from(list(FULL)), json_values).map(lambda some: {**FULL, **some}))
def test_any_value_is_a_record_or_our_error(value):
    with contextlib.suppress(UnreadableArchiveError):
        assert isinstance(Record.from_dict(value), Record)


def test_every_field_has_its_place_in_a_fixed_order():
    record = Record.from_dict(FULL)
    assert record.tool_version == "0.1.0"
    assert record.python == "3.11"
    assert record.frameworks == {"torch": "2.13.0", "numpy": "2.0"}
    assert (record.description, record.licence) == ("digits", "Apache-2.0")
    assert record.inputs == (TensorSpec("x", "float32", (None, 1, 28, 28), {"unit": "grey"}),)
    assert record.outputs == (TensorSpec("y"),)
    assert record.samples == (Sample("MAR-INF/samples/0/input.png", "image/png", "e.json", 0, {"n": 1}),)
    assert record.metrics == {"accuracy": 0.98}
    assert record.compiled == Compiled(
        "MAR-INF/compiled/model",
        "2.15.0",
        "linux-x86_64",
        "cpu",
        ("avx2", "fma"),
        "float32",
        (TensorSpec("0", "float32", (None, 3)),),
        {"seconds": 9},
    )
    assert record.members["w.pt"] == MemberRecord(DIGEST, 1 << 40, {"md5": "x"})
    assert record.extra == {"later": {"key": [1]}}
    shuffled = {key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in FULL.items()}
    again = Record.from_dict(dict(reversed(shuffled.items())))
    assert json.dumps(again.to_dict()) == json.dumps(FULL)


def test_what_is_not_known_is_left_out():
    assert Record().to_dict() == {"formatVersion": 1}
    assert Record.from_dict({"formatVersion": 1}) == Record()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formatVersion": None}, "torchmar.formatVersion is missing"),
        ({"formatVersion": True}, "torchmar.formatVersion: expected a whole number from 0 up, got true"),
        ({"formatVersion": 2}, "torchmar.formatVersion: expected 1, got 2: a newer torchmar's"),
        ({"toolVersion": 1}, "torchmar.toolVersion: expected a string, got 1"),
        ({"python": 3.1}, "torchmar.python: expected a string, got 3.1"),
        ({"frameworks": ["torch"]}, 'torchmar.frameworks: expected an object, got ["torch"]'),
        ({"frameworks": {"torch": 2}}, 'torchmar.frameworks["torch"]: expected a string, got 2'),
        ({"frameworks": {"torch": None}}, 'torchmar.frameworks["torch"] is missing'),
        ({"description": []}, "torchmar.description: expected a string, got []"),
        ({"licence": {}}, "torchmar.licence: expected a string, got {}"),
        ({"inputs": {}}, "torchmar.inputs: expected a list, got {}"),
        ({"inputs": [None]}, "torchmar.inputs[0] is missing"),
        ({"inputs": ["x"]}, 'torchmar.inputs[0]: expected an object, got "x"'),
        ({"outputs": [{"name": "y"}, {}]}, "torchmar.outputs[1].name is missing"),
        ({"inputs": [{"name": "x", "dtype": 1}]}, "torchmar.inputs[0].dtype: expected a string, got 1"),
        ({"inputs": [{"name": "x", "shape": 3}]}, "torchmar.inputs[0].shape: expected a list, got 3"),
        (
            {"inputs": [{"name": "x", "shape": [None, -1]}]},
            "torchmar.inputs[0].shape[1]: expected a whole number from 0 up, got -1",
        ),
        ({"samples": [{"expected": "e"}]}, "torchmar.samples[0].input is missing"),
        ({"samples": [{"input": "i", "contentType": 1}]}, "torchmar.samples[0].contentType: expected a string, got 1"),
        ({"samples": [{"input": "i", "expected": 1}]}, "torchmar.samples[0].expected: expected a string, got 1"),
        (
            {"samples": [{"input": "i", "tolerance": -1}]},
            "torchmar.samples[0].tolerance: expected a number from 0 up, got -1",
        ),
        (
            {"samples": [{"input": "i", "tolerance": "1"}]},
            'torchmar.samples[0].tolerance: expected a finite number, got "1"',
        ),
        ({"metrics": {"loss": "low"}}, 'torchmar.metrics["loss"]: expected a finite number, got "low"'),
        ({"metrics": {"loss": True}}, 'torchmar.metrics["loss"]: expected a finite number, got true'),
        ({"metrics": {"loss": float("nan")}}, 'torchmar.metrics["loss"]: expected a finite number, got NaN'),
        ({"metrics": {"loss": float("inf")}}, 'torchmar.metrics["loss"]: expected a finite number, got Infinity'),
        ({"compiled": []}, "torchmar.compiled: expected an object, got []"),
        ({"compiled": {}}, "torchmar.compiled.path is missing"),
        ({"compiled": FULL["compiled"] | {"torch": 2}}, "torchmar.compiled.torch: expected a string, got 2"),
        ({"compiled": FULL["compiled"] | {"device": None}}, "torchmar.compiled.device is missing"),
        ({"compiled": FULL["compiled"] | {"dtype": 1}}, "torchmar.compiled.dtype: expected a string, got 1"),
        (
            {"compiled": FULL["compiled"] | {"capability": ["a", 1]}},
            "torchmar.compiled.capability[1]: expected a string, got 1",
        ),
        ({"compiled": FULL["compiled"] | {"inputs": [{}]}}, "torchmar.compiled.inputs[0].name is missing"),
        ({"members": {"a": None}}, 'torchmar.members["a"] is missing'),
        ({"members": {"a": {"size": 1}}}, 'torchmar.members["a"].sha256 is missing'),
        ({"members": {"a": {"sha256": DIGEST}}}, 'torchmar.members["a"].size is missing'),
        (
            {"members": {"a": {"sha256": DIGEST, "size": 1.0}}},
            'torchmar.members["a"].size: expected a whole number from 0 up, got 1.0',
        ),
        (
            {"members": {"a": {"sha256": "ABCDEF", "size": 1}}},
            'torchmar.members["a"].sha256: expected 64 lower-case hex digits, got "ABCDEF"',
        ),
    ],
)
def test_errors_name_the_path(change, message):
    with pytest.raises(UnreadableArchiveError) as caught:
        Record.from_dict({**FULL, **change})
    assert caught.value.message == message
    assert caught.value.where == "MAR-INF/MANIFEST.json"


def test_the_manifest_carries_it():
    manifest = Manifest(Model("m"), extra={"engine": {"a": 1}})
    assert manifest.record is None
    record = Record(description="digits", members={"a": MemberRecord(DIGEST, 1)})
    carried = Manifest.from_json(manifest.with_record(record).to_json())
    assert carried.record == record
    assert carried.extra["engine"] == {"a": 1}
    assert list(carried.to_dict()) == ["runtime", "model", "engine", "torchmar"]
    assert carried.with_record(Record()).record == Record()


def test_a_broken_record_does_not_hide_the_manifest():
    manifest = Manifest.from_dict({"model": {"modelName": "m"}, "torchmar": 1})
    assert manifest.model.model_name == "m"
    with pytest.raises(UnreadableArchiveError, match="torchmar: expected an object, got 1"):
        _ = manifest.record


def test_versions_are_found_without_importing(tmp_path, monkeypatch):
    (tmp_path / "tmdemo-1.2+cpu.dist-info").mkdir()
    (tmp_path / "tmdemo-1.2+cpu.dist-info/METADATA").write_text("Name: tmdemo\nVersion: 1.2+cpu\n")
    (tmp_path / "tmdemo.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed(["tmdemo", "tm-is-not-there"]) == {"tmdemo": "1.2"}


def test_the_version_of_python():
    assert sys.version.startswith(python_version() + ".")
