"""A model's files where its author writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from archive_tool import build
from archive_tool.errors import BuildError, InputError
from serving.local.sources import Sources

HANDLER = "def handle(data, context): return [1] * len(data or [])\n"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def author(tmp_path: Path) -> Path:
    folder = tmp_path / "author"
    (folder / "words").mkdir(parents=True)
    (folder / "h.py").write_text(HANDLER)
    (folder / "words" / "a.txt").write_text("a")
    (folder / "w.pt").write_bytes(b"PK\3\4" + bytes(2 << 20))
    (folder / "torchmar.yaml").write_text("model-name: m\nhandler: h.py\nextra-files: [words, w.pt]\nversion: 1.10\n")
    return folder


def test_a_handlers_file(author: Path, tmp_path: Path) -> None:
    manifest, warnings = Sources(author / "h.py").lay_out(tmp_path / "out")
    assert (manifest.model.model_name, manifest.model.handler, warnings) == ("h", "h.py", ())
    assert names(tmp_path / "out") == ["MAR-INF/MANIFEST.json", "h.py"]
    given = {"model_name": "n", "extra_files": (str(author / "words"),)}
    manifest, _ = Sources(author / "h.py", given).lay_out(tmp_path / "more")
    assert manifest.model.model_name == "n"
    assert names(tmp_path / "more") == ["MAR-INF/MANIFEST.json", "a.txt", "h.py"]


def test_a_project(author: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, target in enumerate((author, author / "torchmar.yaml")):
        out = tmp_path / f"out{number}"
        manifest, _ = Sources(target).lay_out(out)
        assert (manifest.model.model_name, manifest.model.model_version) == ("m", "1.10")
        assert names(out) == ["MAR-INF/MANIFEST.json", "a.txt", "h.py", "w.pt"]
        # Weights would take time to copy; what is small is as it was when the model was loaded.
        assert (out / "w.pt").readlink() == author / "w.pt"
        assert not (out / "a.txt").is_symlink()
        assert not (out / "h.py").is_symlink()
    monkeypatch.chdir(author)
    assert Sources(Path()).lay_out(tmp_path / "here")[0].model.model_name == "m"
    manifest, _ = Sources(author, {"model_name": "other"}).lay_out(tmp_path / "named")
    assert manifest.model.model_name == "other"


def test_a_project_without_a_name_or_a_handler(author: Path, tmp_path: Path) -> None:
    (author / "torchmar.yaml").write_text("handler: h.py\ncheck: true\nforce: true\n")
    assert Sources(author).lay_out(tmp_path / "out")[0].model.model_name == "author"
    (author / "torchmar.yaml").write_text("model-name: m\n")
    with pytest.raises(InputError, match="names no handler"):
        Sources(author).lay_out(tmp_path / "no")


@pytest.mark.parametrize("project", [True, False])
def test_a_folder_of_a_pretrained_model(tmp_path: Path, project: bool) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    if project:
        (folder / "torchmar.yaml").write_text("pretrained: .\n")
    manifest, _ = Sources(folder).lay_out(tmp_path / "out")
    assert manifest.model.model_name == "net"
    assert manifest.model.handler == "pretrained_text_generator"
    found = names(tmp_path / "out")
    assert "pretrained/model.safetensors" in found
    assert (tmp_path / "out" / "model-config.yaml").read_text().startswith("continuousBatching: true\n")
    assert Sources(folder).fingerprint() == Sources(folder).fingerprint()
    assert Sources(folder, {"model_name": "m"}).model_name() == "m"


def test_a_service_folder(author: Path, tmp_path: Path) -> None:
    (author / "torchmar.yaml").write_text("model-name: m\nmodel-path: .\nhandler: h.py:handle\n")
    manifest, _ = Sources(author).lay_out(tmp_path / "out")
    assert manifest.model.handler == "h.py:handle"
    assert "words/a.txt" in names(tmp_path / "out")


def test_an_unpacked_archive(author: Path, tmp_path: Path) -> None:
    archive = build(model_name="m", handler=author / "h.py", export_path=tmp_path, archive_format="no-archive").path
    (archive / "__pycache__").mkdir()
    (archive / "__pycache__" / "h.pyc").touch()
    sources = Sources(archive)
    assert sources.lay_out(tmp_path / "out")[0].model.model_name == "m"
    assert names(tmp_path / "out") == ["MAR-INF/MANIFEST.json", "h.py"]
    before = sources.fingerprint()
    (archive / "__pycache__" / "more.pyc").touch()
    assert sources.fingerprint() == before
    (archive / "more.txt").touch()
    assert sources.fingerprint() != before
    with pytest.raises(InputError, match="unpacked archive"):
        Sources(archive, {"model_name": "n"})
    (archive / "MAR-INF" / "MANIFEST.json").unlink()
    with pytest.raises(InputError, match="no manifest any more"):
        sources.lay_out(tmp_path / "no")


def test_the_sdk_travels_along_as_in_an_archive(author: Path, tmp_path: Path) -> None:
    (author / "h.py").write_text("from handlers import BaseHandler\nclass H(BaseHandler):\n    pass\n")
    Sources(author).lay_out(tmp_path / "out")
    assert (tmp_path / "out" / "handlers" / "base.py").is_file()
    (author / "torchmar.yaml").write_text("handler: tensor_handler\nserialized-file: w.pt\n")
    assert Sources(author).lay_out(tmp_path / "more")[0].model.handler == "tensor_handler"
    assert "from handlers import TensorHandler" in (tmp_path / "more" / "tensor_handler.py").read_text()
    assert (tmp_path / "more" / "handlers" / "base.py").is_file()


def test_what_is_nothing_to_serve(author: Path, tmp_path: Path) -> None:
    for target, text in (
        (tmp_path / "gone.py", "does not exist"),
        (tmp_path / "gone", "does not exist"),
        (author / "w.pt", "is no handler's file and no folder"),
        (author / "words", r"has no torchmar\.yaml"),
    ):
        with pytest.raises(InputError, match=text):
            Sources(target)


def test_mistakes_are_told_as_a_build_tells_them(author: Path, tmp_path: Path) -> None:
    (author / "h.py").write_text("def handle(:\n")
    with pytest.raises(BuildError, match="the handler is not Python") as caught:
        Sources(author).lay_out(tmp_path / "out")
    assert caught.value.where == f"{author / 'h.py'}:1"
    (author / "h.py").unlink()
    with pytest.raises(BuildError, match="does not exist"):
        Sources(author).lay_out(tmp_path / "out")


def test_every_change_shows_in_the_fingerprint(author: Path) -> None:
    sources = Sources(author)
    seen = [sources.fingerprint()]
    assert sources.fingerprint() == seen[0]

    def changed() -> None:
        seen.append(sources.fingerprint())
        assert seen[-1] not in seen[:-1]
        assert sources.fingerprint() == seen[-1]

    (author / "h.py").write_text(HANDLER + "# longer\n")
    changed()
    os.utime(author / "h.py", ns=(1, 1))  # another text of the same length
    changed()
    other = author / "new.py"
    other.write_text(HANDLER + "# longer\n")
    os.utime(other, ns=(1, 1))
    other.replace(author / "h.py")  # as editors save
    changed()
    (author / "words" / "b.txt").touch()
    changed()
    (author / "words" / "b.txt").unlink()
    (author / "w.pt").unlink()
    changed()
    (author / "torchmar.yaml").write_text("handler: h.py\n")
    changed()
    (author / "torchmar.yaml").write_text("handler: [\n")
    changed()
    (author / "torchmar.yaml").write_text("handler: {\n")
    changed()
    (author / "torchmar.yaml").unlink()
    changed()


def test_what_is_no_file_of_the_model_does_not(author: Path) -> None:
    before = Sources(author).fingerprint()
    (author / "notes.txt").touch()
    (author / "__pycache__").mkdir()
    assert Sources(author).fingerprint() == before
