"""inspect on the command line."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

import archive_tool
from archive_tool.cli.output import human_size

BUILD = ["build", "--model-name", "m", "--handler", "h.py", "--export-path", "store"]


def test_inspect(options, torchmar):
    archive_tool.build(**options)
    done = torchmar("inspect", "store/m.mar")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["model.modelName", "m"] in lines
    size = human_size(Path("weights.pt").stat().st_size).split()
    assert ["weights.pt", *size, *size, "stored", "state", "dict", "(zip)"] in lines


def test_inspect_does_not_fold_lines_in_a_pipe(work, torchmar):
    name = "long" * 40 + ".txt"
    Path(name).touch()
    torchmar(*BUILD, "--extra-files", name)
    assert name in torchmar("inspect", "store/m.mar").stdout


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_inspect_as_json(options, torchmar, archive_format):
    result = archive_tool.build(**options, archive_format=archive_format)
    document = json.loads(torchmar("inspect", result.path, "--json").stdout)
    assert document["archiveFormat"] == archive_format
    assert document["size"] == result.size
    assert document["path"] == str(result.path)
    assert document["manifest"] == result.manifest.to_dict()
    assert document["problems"] == []
    members = {member.pop("name"): member for member in document["members"]}
    assert set(members) == set(result.members)
    assert members["weights.pt"]["format"] == "state dict (zip)"
    assert members["weights.pt"]["size"] == Path("weights.pt").stat().st_size
    assert members["h.py"]["format"] is None


def test_the_format_of_a_large_member_of_a_tar(work, torchmar):
    with zipfile.ZipFile("weights.pt", "w") as archive:
        for name in ("data.pkl", "version", "data/0"):
            archive.writestr(f"weights/{name}", bytes(10 << 20))
    torchmar(*BUILD, "--serialized-file", "weights.pt", "--archive-format", "tgz")
    document = json.loads(torchmar("inspect", "store/m.tar.gz", "--json").stdout)
    assert document["members"][1]["format"] == "state dict (zip)"


def test_inspect_lists_an_unsafe_archive_and_says_so(make_zip, torchmar, work):
    path = make_zip([("../evil\x1b[2J", b"1"), ("[red]ok", b"1"), ("MAR-INF/MANIFEST.json", b"[")])
    done = torchmar("inspect", path)
    assert done.returncode == 5
    assert "[red]ok" in done.stdout
    assert "../evil\\x1b[2J" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "not safe to unpack" in done.stderr
    done = torchmar("inspect", path, "--json")
    assert done.returncode == 5
    assert len(json.loads(done.stdout)["problems"]) == 1


def test_inspect_lists_an_archive_with_a_bad_manifest(make_zip, torchmar, work):
    done = torchmar("inspect", make_zip([("h.py", b""), ("MAR-INF/MANIFEST.json", b'{"model": {"modelName": 3}}')]))
    assert done.returncode == 3
    assert "h.py" in done.stdout
    assert done.stderr == "error: model.modelName: expected a string, got 3\n  at: MAR-INF/MANIFEST.json\n"


def test_inspect_what_is_no_archive(work, torchmar):
    done = torchmar("inspect", "h.py")
    assert done.returncode == 3
    assert done.stderr == "error: h.py is neither a zip (.mar) nor a .tar.gz\n"
    assert torchmar("inspect", "gone.mar").returncode == 3


def test_a_format_that_cannot_be_told_is_left_out(work, torchmar, make_zip):
    path = make_zip([("w.pt", b"data" * 100)])
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        data[archive.getinfo("w.pt").header_offset + 36] ^= 0xFF
    path.write_bytes(data)
    (member,) = json.loads(torchmar("inspect", path, "--json").stdout)["members"]
    assert member["format"] is None


def rows(done):
    return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture
def real(work, torchmar):
    """Return an archive with much to report."""
    torch.save({"a": torch.zeros(1000, 2), "b": torch.zeros(3, dtype=torch.int64)}, "w.pt")
    Path("h.py").write_text("import no_such_module\ndef handle(data, context): pass\n")
    Path("c.yaml").write_text("batchSize: 4\nmaxBatchDelay: 0\nhandler: {a: 1}\nbackend: {threads: 2}\n")
    torchmar(*BUILD, "--serialized-file", "w.pt", "-c", "c.yaml")
    return torchmar("inspect", "store/m.mar")


def test_weights_and_entry_point(real):
    assert ["w.pt", "2", "2,003", "8.0", "kB", "float32", "2,000,", "int64", "3"] in rows(real)
    assert ["h.py", "function", "handle", "h.py:2"] in rows(real)


def test_the_config_in_effect(real):
    assert ["batchSize", "4"] in rows(real)
    assert ["maxBatchDelay", "100", "(default)"] in rows(real)
    assert ["maxBatchDelay", "ignored:", "0", "means", "the", "default", "of", "100", "ms"] in rows(real)
    assert ["responseTimeout", "120", "(default)"] in rows(real)
    assert ["minWorkers", "the", "server's"] in rows(real)
    assert ["backend.threads", "2"] in rows(real)
    assert ["handler", "left", "to", "the", "handler"] in rows(real)
    assert "line 2: maxBatchDelay: 0 means TorchServe's default of 100 ms" in real.stdout
    # Unset and rarely asked for values are in the JSON only.
    assert "useJobTicket" not in real.stdout


def test_what_would_not_run_here(real):
    assert ["h.py:1", "no", "module", "named", "'no_such_module'"] in [row[:5] for row in rows(real)]
    assert "(install it, or put its file into the archive (--extra-files))" in real.stdout
    assert real.returncode == 0


def test_the_same_as_json(real, torchmar):
    document = json.loads(torchmar("inspect", "store/m.mar", "--json").stdout)
    (weights,) = document["weights"]
    assert weights == {
        "member": "w.pt",
        "tensors": 2,
        "parameters": 2003,
        "dtypes": {"float32": 2000, "int64": 3},
        "size": 8024,
        "needs": [],
    }
    assert document["memory"] == 8024
    assert document["handler"] == {"handler": "h.py", "kind": "function", "name": "handle", "where": "h.py:2"}
    assert document["config"]["settings"]["batchSize"] == {"value": 4, "source": "file"}
    assert document["config"]["ignored"] == {"maxBatchDelay": "0 means the default of 100 ms"}
    assert document["config"]["forHandler"] == ["handler"]
    assert len(document["config"]["notes"]) == 3
    assert [found["where"] for found in document["obstacles"]] == ["h.py:1"]


def test_sections_without_content_are_left_out(options, torchmar):
    archive_tool.build(**options | {"serialized_file": None})
    done = torchmar("inspect", "store/m.mar")
    assert "weights" not in done.stdout
    assert "notes on the config" not in done.stdout
    assert "would not run here" not in done.stdout
    assert "config in effect" in done.stdout


def test_without_a_manifest(make_zip, torchmar, work):
    done = torchmar("inspect", make_zip([("h.py", b"")]))
    assert done.returncode == 0
    assert "no manifest" in done.stdout
    assert "config in effect" not in done.stdout


def test_hashes_are_for_programs(make_zip, torchmar, work):
    member = {"sha256": "0" * 64, "size": 0}
    record = {"formatVersion": 1, "description": "digits", "members": {"h.py": member}}
    manifest = json.dumps({"model": {"modelName": "m"}, "torchmar": record}).encode()
    path = make_zip([("h.py", b""), ("MAR-INF/MANIFEST.json", manifest)])
    done = torchmar("inspect", path)
    assert ["torchmar.description", "digits"] in rows(done)
    assert "0000" not in done.stdout
    assert json.loads(torchmar("inspect", path, "--json").stdout)["manifest"]["torchmar"] == record
    odd = json.dumps({"model": {"modelName": "m"}, "torchmar": 3}).encode()
    assert torchmar("inspect", make_zip([("MAR-INF/MANIFEST.json", odd)])).returncode == 0


def test_hostile_texts_do_not_reach_the_terminal(make_zip, torchmar, work):
    config = b'"\\e[2J": 1\nbatchSize: "\\e[2J"\nbackend: {"\\e[2J": "[red]"}\n'
    model = {"modelName": "\x1b[2J", "handler": "h\x1b.py", "configFile": "c.yaml", "modelFile": "\x1b"}
    files = [("h\x1b.py", b"import \xc3\xa9\n"), ("c.yaml", config)]
    done = torchmar("inspect", make_zip([*files, ("MAR-INF/MANIFEST.json", json.dumps({"model": model}).encode())]))
    assert done.returncode == 5
    assert "\x1b" not in done.stdout + done.stderr
