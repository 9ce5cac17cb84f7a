"""The description of an archive, also of one that is damaged, hostile or another tool's."""

import contextlib
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import archive_tool
from archive_tool.errors import ArchiveError
from archive_tool.inspection import describe as inspection
from archive_tool.inspection.describe import describe
from archive_tool.weights import tensors

MANIFEST = {"model": {"modelName": "m", "handler": "h.py", "configFile": "c.yaml", "serializedFile": "w.pt"}}


def weights(count=10):
    sink = io.BytesIO()
    torch.save({"a": torch.zeros(count)}, sink)
    return sink.getvalue()


def members(count=10):
    return [
        ("h.py", b"import torch\nclass H: pass\n"),
        ("c.yaml", b"batchSize: 2\n"),
        ("w.pt", weights(count)),
        ("MAR-INF/MANIFEST.json", json.dumps(MANIFEST).encode()),
    ]


def told(path):
    with archive_tool.open_archive(path, allow_unsafe=True) as archive:
        return describe(archive, archive.manifest)


def test_packed_weights(make_zip):
    """The stock archiver deflates them."""
    document = told(make_zip(members()))
    assert document["members"][2]["format"] == "state dict (zip)"
    assert document["weights"][0]["parameters"] == 10
    assert document["memory"] == 40
    json.dumps(document)


def test_large_packed_weights_are_told_from_their_start(make_zip, monkeypatch):
    monkeypatch.setattr(inspection, "_SNIFF_LIMIT", 1000)
    document = told(make_zip(members(100_000)))
    assert document["members"][2]["format"] == "state dict (zip)"
    assert document["weights"][0]["parameters"] == 100_000
    document = told(make_zip([("w.pt", b"no weights" * 1000)]))
    assert document["weights"] == []


def test_a_tar_and_a_folder(make_tar, work):
    document = told(make_tar([(f"m/{name}", data) for name, data in members()]))
    assert document["weights"][0]["parameters"] == 10
    for name, data in members():
        path = Path("folder", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    document = told("folder")
    assert document["weights"][0]["parameters"] == 10
    assert document["handler"]["kind"] == "class"


def test_several_files_of_weights_add_up(make_zip):
    document = told(make_zip([("a.pt", weights(1)), ("b.pt", weights(2)), ("c.txt", b"")]))
    assert document["memory"] == 12
    assert document["manifest"] is None
    assert document["handler"] is None
    assert document["obstacles"] == []
    assert document["config"]["settings"]["batchSize"]["source"] == "default"


def test_without_weights(make_zip):
    assert told(make_zip([("a.txt", b"")]))["memory"] is None


def test_a_config_that_is_not_there(make_zip):
    document = told(make_zip([one for one in members() if one[0] != "c.yaml"]))
    assert document["config"]["settings"]["responseTimeout"] == {"value": None, "source": "server"}
    assert "configFile" in document["obstacles"][0]["message"]


def test_patience_ends(make_zip, monkeypatch):
    monkeypatch.setattr(inspection, "_PATIENCE_S", -1.0)
    document = told(make_zip(members()))
    assert document["weights"] == []
    assert document["members"][2]["format"] is None


def test_nothing_of_a_checkpoint_is_run(make_zip, work):
    class Evil:
        def __reduce__(self):
            return (Path("evil").touch, ())

    sink = io.BytesIO()
    torch.save({"a": Evil(), "b": torch.zeros(2)}, sink)
    document = told(make_zip([("w.pt", sink.getvalue())]))
    assert document["weights"][0]["parameters"] == 2
    assert document["weights"][0]["needs"]
    assert not Path("evil").exists()


def test_torch_is_not_imported(make_zip, torchmar, work):
    import subprocess
    import sys

    path = make_zip(members())
    code = f"""
import sys
from archive_tool import open_archive
from archive_tool.inspection.describe import describe
with open_archive({str(path)!r}) as archive:
    assert describe(archive, archive.manifest)["memory"] == 40
assert "torch" not in sys.modules
"""
    root = str(Path(archive_tool.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": root})


GOOD = io.BytesIO()
with zipfile.ZipFile(GOOD, "w") as _archive:
    for _name, _data in members():
        _archive.writestr(_name, _data)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(GOOD.getvalue()) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes(tmp_path, changes):
    """A changed archive is described, or refused with an ArchiveError."""
    data = bytearray(GOOD.getvalue())
    for position, byte in changes:
        data[position] = byte
    path = tmp_path / "changed.mar"
    path.write_bytes(data)
    with contextlib.suppress(ArchiveError):
        json.dumps(told(path))


@pytest.mark.parametrize("name", ["h.py", "c.yaml", "w.pt"])
def test_a_member_that_cannot_be_read(make_zip, name):
    path = make_zip(members())
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    data[info.header_offset + 30 + len(name) + 1] ^= 0xFF
    path.write_bytes(data)
    document = told(path)
    assert document["manifest"] is not None
    assert tensors.MAX_HEADER
