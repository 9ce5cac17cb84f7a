"""build, inspect and extract on the command line."""

import json
import re
import zipfile
from pathlib import Path

import pytest

import archive_tool
from archive_tool.commands import human_size

BUILD = ["build", "--model-name", "m", "--handler", "h.py", "--export-path", "store"]


def test_build_says_one_line(work, torchmar):
    done = torchmar(*BUILD, "--serialized-file", "weights.pt", "--model-file", "model.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"store/m\.mar  \d\.\d kB  4 members  \d\.\d\d s\n", done.stdout)
    again = torchmar(*BUILD, "-f")
    assert again.stdout.endswith(" s  replaced\n")
    assert again.stderr == ""
    assert torchmar(*BUILD, "-f", "-q").stdout == ""


def test_all_options(work, torchmar):
    for name in ("a", "b", "c"):
        Path(name).touch()
    Path("r.txt").write_text("numpy\n")
    Path("c.yaml").write_text("batchSize: 2\n")
    options = ["-v", "2.0", "-r", "r.txt", "-c", "c.yaml", "--runtime", "python3", "--archive-format", "zip-store"]
    done = torchmar(*BUILD, *options, "--extra-files", "a, b", "--extra-files", "c", "--no-vendor-sdk")
    assert done.returncode == 0, done.stderr
    with archive_tool.open_archive("store/m.mar") as archive:
        assert archive.archive_format == "zip-store"
        assert archive.manifest.runtime == "python3"
        assert archive.manifest.model.model_version == "2.0"
        assert {member.name for member in archive.members} == {
            *("a", "b", "c", "r.txt", "c.yaml", "h.py", "MAR-INF/MANIFEST.json"),
        }


def test_options_beyond_torch_model_archiver(work, torchmar):
    options = ["--serialized-file", "weights.pt", "--model-file", "model.py", "--compress"]
    for spelling in ("--licence", "--license"):
        done = torchmar(*BUILD, "-f", *options, "--description", "a net", spelling, "MIT")
        assert (done.returncode, done.stderr) == (0, "")
        with archive_tool.open_archive("store/m.mar") as archive:
            assert {member.method for member in archive.members} == {"deflated"}
            record = archive.manifest.record
        assert (record.description, record.licence) == ("a net", "MIT")
    done = torchmar("inspect", "store/m.mar")
    assert re.search(r"^torchmar\.licence +MIT *$", done.stdout, re.MULTILINE)
    assert "sha256" not in done.stdout
    assert "sha256" in torchmar("inspect", "store/m.mar", "--json").stdout


def test_warnings_go_to_stderr(work, torchmar):
    done = torchmar(*BUILD, "-q", "--extra-files", "*.none")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "warning: --extra-files: no file matches '*.none'\n"


def test_mistakes_are_told_together(work, torchmar):
    Path("h.py").write_text("x = 1\n")
    done = torchmar(*BUILD, "--serialized-file", "weight.pt")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: 2 problems with the inputs\n"
        "  - --serialized-file: the file weight.pt does not exist (did you mean weights.pt?)\n"
        "  - h.py: the handler has neither a function 'handle' nor a class (define handle(data, context), or one "
        "class with initialize(context) and handle(data, context))\n"
    )
    assert list(Path("store").iterdir()) == []


def test_an_existing_target(work, torchmar):
    torchmar(*BUILD)
    done = torchmar(*BUILD)
    assert done.returncode == 1
    assert done.stderr == "error: store/m.mar exists already\n  hint: give --force (-f) to replace it\n"


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


def test_extract(options, torchmar):
    result = archive_tool.build(**options)
    done = torchmar("extract", result.path, "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"out  \d\.\d kB  4 members\n", done.stdout)
    assert Path("out/h.py").read_bytes() == Path("h.py").read_bytes()
    done = torchmar("extract", result.path, "out")
    assert done.returncode == 1
    assert "out is not empty" in done.stderr
    assert torchmar("extract", "-q", result.path, "other").stdout == ""


def test_extract_refuses_as_a_whole(make_zip, torchmar, work):
    done = torchmar("extract", make_zip([("fine", b"1"), ("../evil", b"1")]), "out")
    assert done.returncode == 5
    assert "'../evil' leads out of the archive" in done.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (4_600_000, "4.6 MB"),
        (99_960, "100 kB"),
        (999_700, "1.0 MB"),
        (12_345_678_901, "12.3 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_human_size(size, text):
    assert human_size(size) == text
