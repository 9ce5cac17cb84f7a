"""Archives of pretrained models: built, begun with `init`, and verified."""

import json
from pathlib import Path

import pytest

import archive_tool
from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.metadata.record import KEY, Pretrained, Record
from archive_tool.projects import project_file
from archive_tool.projects.starter import start

from .conftest import write
from .test_folder import CODE, sentences


def test_one_folder_and_nothing_else(saved, torchmar):
    saved("my net")
    done = torchmar("build", "--pretrained", "my net", "--export-path", "store", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["path"] == "store/my_net.mar"
    assert result["warnings"] == []
    assert {"pretrained/config.json", "pretrained/model.safetensors", "pretrained_text_classifier.py"} < {
        *result["members"]
    }
    assert "handlers/pretrained/text_classification.py" in result["members"]
    with archive_tool.open_archive("store/my_net.mar") as archive:
        record = archive.manifest.record
        assert archive.manifest.model.handler == "pretrained_text_classifier"
        assert archive.manifest.model.serialized_file is None
        assert b"class Handler(PretrainedTextClassifier)" in archive.read("pretrained_text_classifier.py", 1 << 20)
    assert record.pretrained.task == "text-classification"
    assert record.licence == "apache-2.0"
    assert torchmar("verify", "store/my_net.mar").returncode == 0


def test_it_is_reproducible_and_may_have_a_handler_of_its_own(saved):
    folder = saved()
    options = {"model_name": "m", "pretrained": folder, "export_path": "store", "handler": "h.py", "force": True}
    first = archive_tool.build(**options)
    content = first.path.read_bytes()
    assert archive_tool.build(**options).path.read_bytes() == content
    assert first.manifest.model.handler == "h.py"
    assert "pretrained/config.json" in first.members
    assert "pretrained_text_classifier.py" not in first.members


def test_problems_are_reported_together(saved):
    folder = saved()
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(BuildError, match="3 problems") as caught:
        archive_tool.build(model_name="m", pretrained=folder, requirements_file="absent.txt")
    assert "the weights are missing" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"handler": ""}, "names no handler"),
        ({"handler": "h.py", "task": "fill-mask"}, "--task is about a pretrained model"),
        ({"handler": "h.py", "trust_remote_code": True}, "--trust-remote-code is about"),
        (
            {"pretrained": "net", "serialized_file": "weights.pt"},
            "--serialized-file cannot be given beside --pretrained",
        ),
        ({"pretrained": "net", "aot": True}, "--aot cannot be given"),
        ({"pretrained": "net", "runtime": "LSP"}, "needs Python"),
        ({"pretrained": "net", "task": "chess"}, "is no task"),
        ({"pretrained": "absent"}, "does not exist"),
    ],
)
def test_options_that_do_not_go_together(saved, options, said):
    saved()
    with pytest.raises(BuildError, match=said):
        archive_tool.build(model_name="m", **options)


def test_the_command_line_wants_a_handler_without_a_folder(saved, torchmar):
    done = torchmar("build", "--model-name", "m")
    assert done.returncode == 2
    assert "--handler" in done.stderr


def test_trusted_code_goes_along_and_verify_tells(saved, torchmar):
    folder = saved(files={"net.py": "class Model: pass\n"}, **CODE)
    refused = torchmar("build", "--pretrained", folder)
    assert refused.returncode == 1
    assert "needs code of its own" in refused.stderr
    assert torchmar("build", "--pretrained", folder, "--trust-remote-code", "-q").returncode == 0
    told = torchmar("verify", "net.mar")
    assert told.returncode == 0
    assert "runs code of its own when it is loaded: the Python files in 'pretrained'" in told.stdout + told.stderr


def test_a_place_out_of_the_archive_is_unsafe(saved, torchmar, make_zip):
    manifest = {
        "runtime": "python",
        "model": {"modelName": "m", "handler": "h.py"},
        KEY: {"formatVersion": 1, "pretrained": {"path": "../x", "task": "fill-mask"}},
    }
    path = make_zip(
        [("h.py", b"def handle(data, context): pass"), ("MAR-INF/MANIFEST.json", json.dumps(manifest).encode())]
    )
    assert torchmar("verify", path).returncode == 5


def test_records_are_read_as_they_are_written():
    whole = Record(pretrained=Pretrained("pretrained", "fill-mask", "BertForMaskedLM", ("a", "b"), True, {"new": 1}))
    assert Record.from_dict(whole.to_dict()) == whole
    assert Record.from_dict(json.loads(json.dumps(whole.to_dict()))).pretrained.extra == {"new": 1}
    assert Record(pretrained=Pretrained("p", "t")).to_dict()["pretrained"] == {"path": "p", "task": "t"}
    for wrong in ({"path": "p"}, {"path": 1, "task": "t"}, {"path": "p", "task": "t", "remoteCode": 1}, []):
        with pytest.raises(archive_tool.UnreadableArchiveError, match=r"torchmar\.pretrained"):
            Record.from_dict({"formatVersion": 1, "pretrained": wrong})


def test_init_in_such_a_folder(saved, torchmar):
    folder = saved("my net", files={"requirements.txt": "pyyaml\n"})
    assert torchmar("init", folder).returncode == 0
    text = (folder / "torchmar.yaml").read_text()
    assert "\npretrained: " in text
    assert "\ntask: text-classification\n" in text
    built = archive_tool.build(**project_file.read(folder))
    assert built.manifest.model.model_name == "my_net"
    assert built.manifest.model.requirements_file == "requirements.txt"
    assert "pretrained/torchmar.yaml" not in built.members
    with pytest.raises(TargetExistsError):
        start(folder)


def test_init_with_a_handler_to_change(saved):
    folder = saved()
    started = start(folder, kind="custom")
    assert started.written == (folder / "torchmar.yaml", folder / "handler.py")
    assert "class Handler(PretrainedTextClassifier):" in (folder / "handler.py").read_text()
    built = archive_tool.build(**project_file.read(folder))
    assert built.manifest.model.handler == "handler.py"
    assert start(folder, force=True).written == (folder / "torchmar.yaml",)  # takes the handler that is there
    assert "handler: handler.py" in (folder / "torchmar.yaml").read_text()


def test_init_says_what_is_wrong(saved):
    with pytest.raises(BuildError, match="has no handler in a folder of save_pretrained"):
        start(saved(), kind="image")
    folder = saved("other")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BuildError, match="the tokenizer is missing"):
        start(folder)
    assert not (folder / "torchmar.yaml").exists()
    write(folder, {"net.py": "", "tokenizer.json": {}, "config.json": {"architectures": ["BertModel"], **CODE}})
    start(folder)
    assert "# trust-remote-code: true" in (folder / "torchmar.yaml").read_text()
    with pytest.raises(BuildError, match="code of its own"):
        archive_tool.build(**project_file.read(folder))


def test_init_for_sentence_transformers(saved):
    folder = sentences(saved)
    start(folder)
    built = archive_tool.build(**project_file.read(folder))
    assert built.manifest.record.pretrained.task == "feature-extraction"
    assert "pretrained/1_Pooling/config.json" in built.members
    assert Path("net.mar").exists()
