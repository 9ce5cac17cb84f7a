"""build on the command line."""

import json
import re
import sys
from pathlib import Path

import click
import pytest

import archive_tool
from archive_tool.cli import build

BUILD = ["build", "--model-name", "m", "--handler", "h.py", "--export-path", "store"]


def test_build_says_one_line(work, torchmar):
    done = torchmar(*BUILD, "--serialized-file", "weights.pt", "--model-file", "model.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"store/m\.mar  \d\.\d kB  4 members  \d\.\d\d s\n", done.stdout)
    again = torchmar(*BUILD, "-f")
    assert again.stdout.endswith(" s  replaced\n")
    assert again.stderr == ""
    assert torchmar(*BUILD, "-f", "-q").stdout == ""


def test_a_build_for_programs(work, torchmar):
    done = torchmar(*BUILD, "--json", "--serialized-file", "weights.pt", "--model-file", "model.py")
    found = json.loads(done.stdout)
    assert (found["path"], found["model"], found["version"]) == ("store/m.mar", "m", "1.0")
    assert (found["size"], len(found["members"])) == (Path("store/m.mar").stat().st_size, 4)
    assert (found["replaced"], found["warnings"], found["checked"]) == (False, [], None)
    assert json.loads(torchmar(*BUILD, "--json", "-f").stdout)["replaced"] is True


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


def test_a_sample(work, torchmar):
    Path("in.json").write_text("[1]")
    done = torchmar(*BUILD, "--sample", "in.json=7", "--sample", "in.json")
    assert (done.returncode, done.stderr) == (0, "")
    with archive_tool.open_archive("store/m.mar") as archive:
        assert [sample.expected for sample in archive.manifest.record.samples] == [
            "MAR-INF/samples/0/expected.json",
            None,
        ]


def test_a_check_that_fails_leaves_no_archive(work, torchmar):
    Path("h.py").write_text("def handle(data, context):\n    import no_such_module\n")
    Path("torch.py").write_text("raise ImportError")  # importing the real one takes seconds
    done = torchmar(*BUILD, "--check", "--extra-files", "torch.py")
    assert done.returncode == 6, done.stderr
    assert done.stderr.startswith(
        "error: model m cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'\n"
    )
    assert "  at: h.py:2\n" in done.stderr
    assert list(Path("store").iterdir()) == []


def test_a_check_that_succeeds(work, torchmar):
    Path("in.txt").write_text("four")
    Path("torch.py").write_text("raise ImportError")
    done = torchmar(*BUILD, "--sample", "in.txt=4", "--check", "--extra-files", "torch.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"\nchecked: loads in \d+\.\d\d s, 1 sample answered, 1 of them as expected, [\d.]+ MB\n", done.stdout
    )
    assert [path.name for path in Path("store").iterdir()] == ["m.mar"]


def test_beginnings_of_options_as_for_torch_model_archiver(monkeypatch):
    arg_parser = pytest.importorskip("model_archiver.arg_parser")
    needed = ["--model-name", "m", "--handler", "h", "--version", "1"]

    def theirs(*given):
        monkeypatch.setattr(sys, "argv", ["torch-model-archiver", *needed, *given])
        try:
            found = vars(arg_parser.ArgParser.export_model_args_parser())
        except SystemExit:
            return None
        return {key: value for key, value in found.items() if value == "VALUE"}

    def ours(*given):
        try:
            params = build.build.make_context("build", [*needed, *given]).params
        except click.UsageError:
            return None
        return {key: value for key, value in params.items() if value in ("VALUE", ("VALUE",))}

    whole = {name for param in build.build.params for name in param.opts}
    seen = 0
    for name in build.STOCK_OPTIONS:
        for end in range(3, len(name) + 1):
            if name in ("--force", "--help", "--runtime", "--archive-format"):  # which do not take every value
                continue
            if name[:end] in whole - set(build.STOCK_OPTIONS):
                continue
            found = theirs(name[:end], "VALUE")
            assert (found and found.keys()) == ((mine := ours(name[:end], "VALUE")) and mine.keys()), name[:end]
            seen += found is not None
    assert seen > 60
    assert build.build.make_context("build", ["--f"]).params["force"]
    assert build.build.make_context("build", ["--run=LSP"]).params["runtime"] == "LSP"
    assert ours("--keep") is None  # ours have no short forms
    with pytest.raises(click.UsageError, match="--m may be --model-file or --model-name"):
        build.build.make_context("build", ["--m", "x"])
    with pytest.raises(click.NoSuchOption) as raised:
        build.build.make_context("build", ["--keep"])
    assert "--keep-folders" in raised.value.possibilities
    assert set(raised.value.possibilities) <= whole | {"--help"}
