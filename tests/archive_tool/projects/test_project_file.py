"""The contents of a project file, and what comes of them."""

import inspect
import re
from pathlib import Path

import pytest

import archive_tool
from archive_tool.building.builder import build
from archive_tool.errors import BuildError
from archive_tool.projects import project_file


@pytest.fixture
def write(work):
    """Write a project file into a folder of its own; return the folder."""

    def put(text, name="net/torchmar.yaml"):
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path.parent.relative_to(work)

    return put


def test_every_option_of_a_build_is_a_key():
    known = {name.replace("-", "_") for name in project_file.KEYS} - {"check"}
    assert known == set(inspect.signature(build).parameters) - {"record", "progress", "before_publish", "archive_name"}


def test_paths_are_relative_to_the_file(write):
    folder = write(
        """
        model-name: net
        version: 1.10
        handler: code/h.py:entry
        model_path: service
        serialized-file: weights.pt
        model-file: /absolute/net.py
        extra-files: [labels.txt, "words=vocabulary", "*.md"]
        keep-folders: yes
        sample: [in.json=out.json, "in.json=[1]", in.json]
        export-path: ../store/
        vendor_sdk: false
        description: "a: b"
        """
    )
    Path("net/out.json").touch()
    expected = {
        "model_name": "net",
        "version": "1.10",
        "handler": "net/code/h.py:entry",
        "model_path": "net/service",
        "serialized_file": "net/weights.pt",
        "model_file": "/absolute/net.py",
        "extra_files": ["net/labels.txt", "net/words=vocabulary", "net/*.md"],
        "keep_folders": Path("net"),
        "sample": ["net/in.json=net/out.json", "net/in.json=[1]", "net/in.json"],
        "export_path": "net/../store/",
        "vendor_sdk": False,
        "description": "a: b",
    }
    assert project_file.read(folder) == expected
    assert project_file.read(folder / "torchmar.yaml") == expected


def test_names_of_handlers_are_no_paths(write):
    for name in ("image_classifier", "tensor_handler", "densenet_handler", "TorchScriptHandler"):
        assert project_file.read(write(f"handler: {name}"))["handler"] == name
    Path("net/tensor_handler.py").touch()
    assert project_file.read(write("handler: tensor_handler"))["handler"] == "net/tensor_handler"
    assert project_file.read(write("handler: h"))["handler"] == "net/h"


def test_lists_may_be_texts_with_commas(write):
    assert project_file.read(write("extra-files: a, b,c"))["extra_files"] == ["net/a", "net/b", "net/c"]
    Path("net/a=b").touch()
    assert project_file.read(write("extra-files: [a=b, c=d]"))["extra_files"] == ["net/a=b", "net/c=d"]


def test_in_the_current_folder_paths_stay_as_they_are(write):
    write("handler: h.py\nkeep-folders: true", "torchmar.yaml")
    assert project_file.read(Path("torchmar.yaml")) == {"handler": "h.py", "keep_folders": Path()}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("handler: h\nserialised-file: x", 2, r"'serialised-file' is no option.*did you mean serialized-file\?"),
        ("\nfoo: 1", 2, "'foo' is no option.*the options are model-name"),
        ("handler: h\nversion: 1\nhandler: g", 3, "handler is set twice, first in line 1"),
        ("extra_files: a\nextra-files: b", 2, "extra-files is set twice"),
        ("force: 1", 1, "force: expected true or false, got '1'"),
        ('force: "true"', 1, "force: expected true or false"),
        ("version:", 1, "version: expected a text, got nothing"),
        ("version: [1]", 1, "version: expected a text, got a list"),
        ("handler: {a: b}", 1, "handler: expected a text, got a mapping"),
        ("extra-files:\n- a\n- [b]", 2, "extra-files: expected a text"),
        ("runtime: java", 1, "runtime: expected one of python, python3, LSP, got 'java'"),
        ("archive-format: zip", 1, "archive-format: expected one of default"),
        ("[1, 2]: x", 1, "'a list' is no option"),
        ("<<: {handler: h}", 1, "'<<' is no option"),
        ("a: b: c", 1, "is not YAML"),
        ("- a", None, "holds no settings"),
        ("", None, "holds no settings"),
        ("&a [*a", 1, "is not YAML"),
    ],
)
def test_mistakes_name_their_line(write, text, line, reason):
    folder = write(text)
    with pytest.raises(BuildError) as caught:
        project_file.read(folder)
    error = caught.value
    assert re.search(reason, f"{error.message} {error.hint}")
    assert error.where == (f"net/torchmar.yaml:{line}" if line else "net/torchmar.yaml")


def test_all_mistakes_are_told_at_once(write):
    with pytest.raises(BuildError, match=r"2 problems(.|\n)*no option(.|\n)*expected true or false"):
        project_file.read(write("foo: 1\nforce: maybe"))


def test_a_file_that_is_not_there(work):
    with pytest.raises(BuildError, match="cannot read the project file") as caught:
        project_file.read(Path("no.yaml"))
    assert "torchmar init" in caught.value.hint


PROJECT = """
model-name: net
handler: ../h.py
version: 1.5
export-path: ../store
extra-files: [data]
keep-folders: true
"""


def test_the_command_line_wins(write, torchmar):
    write(PROJECT)
    Path("net/data").mkdir()
    Path("net/data/words.txt").touch()
    done = torchmar("build", "--from", "net")
    assert (done.returncode, done.stderr) == (0, "")
    with archive_tool.open_archive(Path("store/net.mar")) as archive:
        assert archive.manifest.model.model_version == "1.5"
        assert "data/words.txt" in {member.name for member in archive.members}
    done = torchmar("build", "--from", "net/torchmar.yaml", "--version", "2.0", "--model-name", "other", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with archive_tool.open_archive(Path("store/other.mar")) as archive:
        assert archive.manifest.model.model_version == "2.0"
    done = torchmar("build", "--from", "net", "--export-path", "net", "--extra-files", "model.py")
    assert done.returncode == 1  # model.py is not below net, so keep-folders has nothing to keep
    assert "not below net" in done.stderr


def test_what_is_missing_is_a_wrong_command_line(write, torchmar):
    done = torchmar("build", "--from", write("version: 1"))
    assert done.returncode == 2
    assert "--model-name" in done.stderr
    done = torchmar("build", "--model-name", "m")
    assert done.returncode == 2
    assert "--handler" in done.stderr
