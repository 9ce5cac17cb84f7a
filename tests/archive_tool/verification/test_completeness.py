"""An archive that certainly cannot be served is not called good; one that can is."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from archive_tool.config.effective import understand
from archive_tool.inspection import obstacles
from archive_tool.issues import Kind
from archive_tool.verification.completeness import module_of
from archive_tool.verification.extraction import open_archive
from handlers.builtin import TORCHSERVE_HANDLERS
from tests.archive_tool.hostile import Member, archive, zip_of

from .test_verify import FILES, KINDS, manifest, packed, tar_of, told, verify


@pytest.fixture
def put(tmp_path):
    """Write bytes as an archive in a folder of its own."""

    def write(data, name="m.mar"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    return write


LACKING = {
    "handler": ({"handler": "gone.py"}, "there is no file for the handler 'gone.py'"),
    "handler's module": ({"handler": "gone:handle"}, "there is no file for the handler 'gone:handle'"),
    "handler in another folder": ({"handler": "sub/h.py"}, None),
    "handler of a package that is there": ({"handler": "pack.gone:handle"}, "there is no file for the handler"),
    "serialized file": ({"serializedFile": "gone.pt"}, "serializedFile 'gone.pt' is not in the archive"),
    "model file": ({"modelFile": "gone.py"}, "modelFile 'gone.py' is not in the archive"),
    "config file": ({"configFile": "gone.yaml"}, "configFile 'gone.yaml' is not in the archive"),
    "requirements": ({"requirementsFile": "gone.txt"}, "requirementsFile 'gone.txt' is not in the archive"),
    "a folder for a model file": ({"modelFile": "pack"}, "modelFile 'pack' is not in the archive"),
    "empty weights": ({"serializedFile": "empty.pt"}, "serializedFile 'empty.pt' is empty"),
    "a pointer for weights": ({"serializedFile": "pointer.pt"}, "'pointer.pt' is a Git LFS pointer"),
}
MEMBERS = {
    **FILES,
    "pack/__init__.py": b"",
    "pack/part.py": b"",
    "empty.pt": b"",
    "pointer.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "compiled.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", LACKING)
def test_what_the_manifest_names_and_is_not_there(which, kind, tmp_path):
    model, message = LACKING[which]
    path = packed(kind, {**MEMBERS, "MAR-INF/MANIFEST.json": manifest(**model)}, tmp_path)
    if message is None:
        assert told(path) == []
        return
    ((found, text),) = told(path)
    assert found is Kind.UNREADABLE
    assert message in text


BUILT_IN = [*sorted(TORCHSERVE_HANDLERS), None]
THERE = [
    "h.py",
    "h",
    "h:handle",
    "h.py:handle",
    "a/h.py",
    "pack",
    "pack:handle",
    "pack.part:handle",
    "pack/part:handle",
]


@pytest.mark.parametrize("handler", [*THERE, "pack/part:handle", "compiled", "installed.package:handle", *BUILT_IN])
def test_handlers_that_can_be_found(handler, put):
    members = [Member(name.encode(), data) for name, data in MEMBERS.items()]
    path = put(archive(*members, manifest=manifest(handler=handler)))
    assert told(path) == []
    with open_archive(path) as opened:
        assert obstacles._sources(opened, opened.manifest) is not None
        lacking = [one.message for one in obstacles.find(opened, opened.manifest, understand(None))]
    assert not [text for text in lacking if "no file for the handler" in text]


@pytest.mark.parametrize(
    "handler", ["os:system", "os", "os.path:join", "subprocess:run", "a/os.py:system", "builtins:exec"]
)
def test_a_handler_that_is_pythons_own(handler, put):
    ((kind, message),) = told(put(archive(manifest=manifest(handler=handler))))
    assert kind is Kind.UNSAFE
    assert "is Python's own module" in message


@pytest.mark.parametrize("handler", ["os:handle", "random.py"])
def test_a_module_of_the_archive_with_the_name_of_pythons_own(handler, put):
    members = [Member(b"os.py", b""), Member(b"random.py", b"")]
    assert told(put(archive(*members, manifest=manifest(handler=handler)))) == []


RUNTIMES = {"/bin/sh": False, "python2.7": False, "": True, "python": True, "python3": True}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes(runtime, put):
    document = {"runtime": runtime, "model": {"modelName": "m", "handler": "base_handler"}}
    issues = told(put(archive(manifest=json.dumps(document).encode())))
    if RUNTIMES[runtime]:
        assert issues == []
    else:
        ((kind, message),) = issues
        assert kind is Kind.UNREADABLE
        assert f"runtime {runtime!r} is none that TorchServe has" in message


@pytest.mark.parametrize(("handler", "good"), [("TorchScriptHandler", True), ("lib", True), ("other", False)])
def test_handlers_of_the_cpp_backend(handler, good, put):
    document = {"runtime": "LSP", "model": {"modelName": "m", "handler": handler}}
    issues = told(put(archive(Member(b"lib.so", b"\x7fELF"), manifest=json.dumps(document).encode())))
    assert [kind for kind, _ in issues] == [] if good else [Kind.UNREADABLE]


NO_MODELS = {
    "a workflow": ([Member(b"WAR-INF/MANIFEST.json", b"{}"), Member(b"w.yaml", b"")], "is a workflow"),
    "nothing": ([], "the archive is empty"),
    "a folder around all": ([Member(b"m/MAR-INF/MANIFEST.json", b"{}")], "where TorchServe does not look"),
    "another case": ([Member(b"mar-inf/manifest.json", b"{}")], "where TorchServe does not look"),
}


@pytest.mark.parametrize("which", NO_MODELS)
def test_what_is_no_archive_of_a_model(which, put):
    members, message = NO_MODELS[which]
    ((kind, text),) = told(put(zip_of(*members)))
    assert kind is Kind.UNREADABLE
    assert message in text


def test_a_tar_without_the_folder_that_torchserve_cuts_off(put):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        info = tarfile.TarInfo("MAR-INF/MANIFEST.json")
        tar.addfile(info)
    ((kind, text),) = told(put(stream.getvalue(), "m.tar.gz"))
    assert kind is Kind.UNREADABLE
    assert "the manifest is 'MANIFEST.json'" in text


def test_an_archive_without_a_manifest_is_good(put):
    assert told(put(zip_of(Member(b"h.py", b"")))) == []


@pytest.mark.parametrize(("text", "message"), [(b"", "no settings"), (b"- 1", "no settings"), (b"a: [", "not YAML")])
def test_a_config_file_with_which_nothing_is_registered(text, message, put):
    ((kind, told_message),) = told(put(archive(Member(b"c.yaml", text), manifest=manifest(configFile="c.yaml"))))
    assert kind is Kind.UNREADABLE
    assert message in told_message


def test_samples_outside_the_archive(put):
    document = json.loads(manifest({}))
    document["torchmar"] |= {"samples": [{"input": "../../etc/passwd"}]}
    ((kind, message),) = told(put(archive(manifest=json.dumps(document).encode())))
    assert kind is Kind.UNSAFE
    assert "torchmar.samples[0] '../../etc/passwd'" in message


def test_a_pointer_that_the_manifest_does_not_name_is_a_note(put):
    result = verify(put(archive(Member(b"notes.md", MEMBERS["pointer.pt"]))))
    assert result.kind is None
    assert "Git LFS pointer" in " ".join(issue.message for issue in result.issues)


@pytest.mark.parametrize(
    ("handler", "module"),
    [("h", ("", "h")), ("a/h.py", ("", "h")), ("a/b/h.py:f", ("a/b", "h")), ("p.q:f", ("", "p.q"))],
)
def test_module_of(handler, module):
    assert module_of(handler) == module


def test_folders_with_content(put):
    ((kind, message),) = told(put(archive(Member(b"pack/", b"import os\n"))))
    assert kind is Kind.UNSAFE
    assert "is a folder, and has 10 bytes" in message
    assert told(put(archive(Member(b"pack/", b"")))) == []
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        info = tarfile.TarInfo("m/pack")
        info.type, info.size = tarfile.DIRTYPE, 512
        tar.addfile(info, io.BytesIO(bytes(512)))
    assert (Kind.UNSAFE, message.replace("'pack/'", "'m/pack/'").replace("10", "512")) in told(
        put(stream.getvalue(), "m.tar.gz")
    )


def test_a_member_of_negative_size(put):
    import gzip

    data = bytearray(gzip.decompress(tar_of({"a": b"1", "b": b"2"})))
    data[124:136] = (-512).to_bytes(12, "big", signed=True)
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    ((kind, message),) = told(put(gzip.compress(bytes(data)), "m.tar.gz"))
    assert kind is Kind.UNREADABLE
    assert "has a size of -512" in message


def test_convert_takes_what_is_not_complete(put):
    """An old manifest names another runtime; it is written anew."""
    document = {"runtime": "python2.7", "model": {"modelName": "m", "handler": "h:handle", "modelFile": "gone"}}
    path = put(archive(Member(b"h.py", b""), manifest=json.dumps(document).encode()))
    with open_archive(path) as opened:
        assert sorted(child.name for child in Path(opened.extract(path.parent / "o", complete=False)).iterdir())
