"""The same inputs through torch-model-archiver and through torchmar hold the same members and the same manifest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import archive_tool

pytest.importorskip("model_archiver")

FORMATS = ["default", "zip-store", "tgz", "no-archive"]
SUFFIX = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}


@pytest.fixture
def peer(work):
    """Run torch-model-archiver with a staging folder of its own, so that tests side by side do not collide."""

    def run(*arguments):
        Path("peer").mkdir(exist_ok=True)
        Path("tmp").mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "model_archiver.model_packaging", *arguments, "--export-path", "peer"],
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(work / "tmp")},
            check=False,
        )

    return run


def contents(path):
    with archive_tool.open_archive(path) as archive:
        members = {member.name: archive.read(member.name, 1 << 20) for member in archive.members}
        return members, archive.manifest.to_dict()


def compare(peer, torchmar, *arguments, archive_format="default"):
    arguments = ["--model-name", "m", "--version", "1.0", "--archive-format", archive_format, *arguments]
    theirs, ours = peer(*arguments), torchmar("build", *arguments, "--export-path", "store")
    assert theirs.returncode == 0, theirs.stderr
    assert ours.returncode == 0, ours.stderr
    name = f"m{SUFFIX[archive_format]}"
    their_members, their_manifest = contents(Path("peer", name))
    our_members, our_manifest = contents(Path("store", name))
    for manifest in (their_manifest, our_manifest):
        del manifest["createdOn"], manifest["archiverVersion"]
    del our_manifest["torchmar"]  # our own key, which the frontend ignores
    assert our_manifest == their_manifest
    assert list(our_manifest["model"]) == list(their_manifest["model"])
    for members in (their_members, our_members):
        del members["MAR-INF/MANIFEST.json"]
    assert our_members == their_members
    return our_members, our_manifest


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


@pytest.mark.parametrize("archive_format", FORMATS)
def test_all_options_in_each_format(peer, torchmar, archive_format):
    touch("d/k.json", "d/sub/x.bin", "d/sub/__pycache__/x.pyc", "d/.git/x", "d/.hidden", "e.txt")
    Path("r.txt").write_text("numpy\n")
    Path("c.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\n")
    members, manifest = compare(
        peer,
        torchmar,
        *("--handler", "h.py", "--model-file", "./model.py", "--serialized-file", "weights.pt"),
        *("--extra-files", "d,e.txt", "-r", "./r.txt", "-c", "./c.yaml", "--runtime", "python3"),
        archive_format=archive_format,
    )
    assert set(members) == {
        *("h.py", "model.py", "weights.pt", "k.json", "sub/x.bin", ".hidden", "e.txt", "r.txt", "c.yaml"),
    }
    assert manifest["model"]["requirementsFile"] == "r.txt"


@pytest.mark.parametrize("archive_format", FORMATS)
def test_names_inside_are_the_same_as_they_stand(peer, torchmar, archive_format):
    """Also the prefix of a tar, which the reader above cuts."""
    import tarfile
    import zipfile

    compare(peer, torchmar, "--handler", "h.py", archive_format=archive_format)
    names = []
    for folder in ("peer", "store"):
        path = Path(folder, f"m{SUFFIX[archive_format]}")
        if archive_format == "tgz":
            with tarfile.open(path) as archive:
                names.append(sorted(archive.getnames()))
        elif archive_format == "no-archive":
            names.append(sorted(str(found.relative_to(path)) for found in path.rglob("*")))
        else:
            with zipfile.ZipFile(path) as archive:
                names.append(sorted(archive.namelist()))
    assert names[0] == names[1]


@pytest.mark.parametrize("handler", ["h", "h.py", "h:handle", "sub/g", "sub/g.py", "sub/g:run", "./sub/g.py"])
def test_handler_forms(peer, torchmar, handler):
    touch("sub/g.py")
    Path("sub/g.py").write_text("def run(data, context): return data\ndef handle(data, context): return data\n")
    compare(peer, torchmar, "--handler", handler)


def test_a_handler_with_py_and_a_function_works_here_only(peer, torchmar):
    Path("g.py").write_text("def run(data, context): return data\n")
    assert peer("--model-name", "m", "--version", "1.0", "--handler", "g.py:run").returncode == 1
    done = torchmar("build", "--model-name", "m", "--handler", "g.py:run")
    assert done.returncode == 0
    with archive_tool.open_archive("m.mar") as archive:
        assert archive.manifest.model.handler == "g.py:run"
        assert "g.py" in [member.name for member in archive.members]


@pytest.mark.parametrize(
    "handler",
    [
        "base_handler",
        "dali_image_classifier",
        "image_classifier",
        "image_segmenter",
        "object_detector",
        "text_classifier",
        "trt_llm_handler",
        "vllm_handler",
    ],
)
def test_built_in_handlers(peer, torchmar, handler):
    members, _ = compare(
        peer, torchmar, "--handler", handler, "--model-file", "model.py", "--serialized-file", "weights.pt"
    )
    assert set(members) == {"model.py", "weights.pt"}


def test_the_cpp_runtime(peer, torchmar):
    suffix = "dylib" if sys.platform == "darwin" else "so"
    touch(f"lib/h.{suffix}")
    members, _ = compare(peer, torchmar, "--handler", "lib/h:Handler", "--runtime", "LSP")
    assert set(members) == {f"h.{suffix}"}


def test_the_cpp_runtimes_own_handlers(peer, torchmar):
    compare(peer, torchmar, "--handler", "TorchScriptHandler", "--runtime", "LSP")


@pytest.mark.parametrize("extra", ["d/*.txt", "d/*", "d", "d/sub", "d/[ab].txt", "d/?.txt,d/c.md", "*.none", "d/.git"])
def test_extra_files(peer, torchmar, extra):
    touch("d/a.txt", "d/b.txt", "d/c.md", "d/sub/e.txt", "d/sub/deep/f", "d/.git/g", "d/sub/__MACOSX/h", "d/.dot")
    Path("d/empty").mkdir()
    compare(peer, torchmar, "--handler", "h.py", "--extra-files", extra)


def test_linked_folders_are_copied(peer, torchmar):
    touch("real/a", "d/b")
    Path("d/sub").mkdir()
    Path("d/link").symlink_to("../real")
    Path("d/sub/link").symlink_to("../../real")
    members, _ = compare(peer, torchmar, "--handler", "h.py", "--extra-files", "d")
    assert {"link/a", "sub/link/a"} <= set(members)


def test_both_refuse_what_is_there(peer, torchmar):
    arguments = ["--model-name", "m", "--version", "1.0", "--handler", "h.py"]
    codes = []
    for more in ([], [], ["-f"], ["--force"]):
        theirs = peer(*arguments, *more).returncode
        ours = torchmar("build", *arguments, *more, "--export-path", "store").returncode
        codes.append((theirs, ours))
    assert codes == [(0, 0), (1, 1), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model-name", "a b", "--handler", "h.py"],
        ["--model-name", "m", "--handler", "gone.py"],
        ["--model-name", "m", "--handler", "h.py", "--serialized-file", "gone.pt"],
        ["--model-name", "m", "--handler", "h.py", "--extra-files", "gone"],
        ["--model-name", "m"],
        ["--model-name", "m", "--handler", "h.py", "--archive-format", "rar"],
        ["--model-name", "m", "--handler", "h.py", "--runtime", "python2"],
    ],
)
def test_both_refuse_with_one_exit_code(peer, torchmar, arguments):
    theirs = peer("--version", "1.0", *arguments)
    ours = torchmar("build", "--version", "1.0", *arguments)
    assert ours.returncode == theirs.returncode != 0
    assert "Traceback" not in ours.stderr
