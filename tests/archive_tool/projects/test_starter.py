"""First project files; each builds as it stands."""

import os
import zipfile

import pytest

import archive_tool
from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.projects import project_file
from archive_tool.projects.starter import KINDS, start
from tests.archive_tool.conftest import HANDLER, MODEL


@pytest.fixture
def folder(work):
    path = work / "a net"
    path.mkdir()
    return path


def weights(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "version", "data/0"):
            archive.writestr(f"weights/{name}", os.urandom(50))


def script(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/x.py", "version"):
            archive.writestr(f"m/{name}", b"x")


def built(started):
    return archive_tool.build(**project_file.read(started.project), force=True)


def test_weights_with_their_class(folder):
    weights(folder / "net.pt")
    (folder / "net.py").write_text(MODEL)
    (folder / "requirements.txt").write_text("pyyaml\n")
    (folder / "model-config.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\n")
    (folder / ".hidden.pt").write_bytes(b"")
    started = start(folder)
    assert (started.kind, started.written) == ("tensor", (folder / "torchmar.yaml",))
    result = built(started)
    model = result.manifest.model
    assert (model.model_name, model.model_version) == ("a_net", "1.0")
    assert (model.handler, model.model_file, model.serialized_file) == ("tensor_handler", "net.py", "net.pt")
    assert (model.requirements_file, model.config_file) == ("requirements.txt", "model-config.yaml")
    assert {"tensor_handler.py", "handlers/tensors/handler.py"} < set(result.members)
    assert not result.warnings


def test_a_program_needs_no_class(folder):
    script(folder / "net 2.pt")
    (folder / "net.py").write_text(MODEL)
    started = start(folder)
    model = built(started).manifest.model
    assert (model.serialized_file, model.model_file) == ("net 2.pt", None)


def test_labels_make_it_a_model_for_images(folder):
    script(folder / "net.pt")
    (folder / "index_to_name.json").write_text('{"0": "cat"}')
    started = start(folder)
    assert (started.kind, started.written) == ("image", (folder / "torchmar.yaml", folder / "handler.py"))
    result = built(started)
    assert {"handler.py", "index_to_name.json", "handlers/vision/image_classifier.py"} < set(result.members)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_builds(folder, kind):
    script(folder / "net.pt")
    started = start(folder, kind=kind)
    assert started.kind == kind
    assert not built(started).warnings


@pytest.mark.parametrize(
    "source",
    [
        HANDLER,
        "def handle(data, context): pass\n",
        "class H(BaseHandler): pass\n",
        "class H(ObjectDetector): pass\n",
        "class H(ImageSegmenter): pass\n",
        "class H(TextEmbedder): pass\n",
    ],
)
def test_a_handler_that_is_there_is_taken(folder, source):
    script(folder / "net.pt")
    (folder / "mine.py").write_text(source)
    started = start(folder)
    assert (started.kind, started.written) == (None, (folder / "torchmar.yaml",))
    assert built(started).manifest.model.handler == "mine.py"


def test_no_file_is_lost(folder):
    script(folder / "net.pt")
    (folder / "handler.py").write_text("x = 1\n")
    started = start(folder, kind="custom")
    assert started.written[1].name == "custom_handler.py"
    assert (folder / "handler.py").read_text() == "x = 1\n"
    with pytest.raises(TargetExistsError, match=r"torchmar\.yaml exists already"):
        start(folder)
    before = (folder / "custom_handler.py").read_text()
    with pytest.raises(TargetExistsError, match="no handler that is known"):
        start(folder, kind="custom", force=True)
    assert (folder / "custom_handler.py").read_text() == before
    assert start(folder, force=True).kind is None  # custom_handler.py is a handler that is there


def test_names_that_mean_something_in_yaml(work):
    for name in ("null", "true", "2024", "net: b"):
        path = work / name
        path.mkdir()
        script(path / f"{name}.pt")
        model = built(start(path)).manifest.model
        assert (model.model_name, model.serialized_file) == (name.replace(": ", "_"), f"{name}.pt")


def test_what_is_in_the_file_is_all_known(folder):
    script(folder / "net.pt")
    text = start(folder).project.read_text()
    keys = {line.lstrip("# ").partition(":")[0] for line in text.splitlines()}
    rare = {"model-path", "runtime", "archive-format", "force", "vendor-sdk", "compress", "aot"}
    pretrained = {"pretrained", "task", "adapter", "trust-remote-code"}
    assert set(project_file.KEYS) - keys == rare | pretrained


def test_commented_lines_may_be_uncommented(folder):
    script(folder / "net.pt")
    text = start(folder).project.read_text()
    options = [line[2:] for line in text.splitlines() if line[2:].partition(":")[0] in project_file.KEYS]
    assert len(options) > 5
    for line in options:
        (folder / "torchmar.yaml").write_text(line)
        assert len(project_file.read(folder)) == 1


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda folder: None, "there is no model in"),
        (lambda folder: weights(folder / "net.pt"), r"net\.pt holds weights, and no Python file"),
        (lambda folder: [script(folder / f"{name}.pt") for name in "ab"], r"more than one model: a\.pt, b\.pt"),
        (
            lambda folder: [(folder / f"{name}.py").write_text(MODEL) for name in "ab"],
            r"more than one class of a model: a\.py, b\.py",
        ),
        (
            lambda folder: [script(folder / "n.pt"), *[(folder / f"{n}.py").write_text(HANDLER) for n in "ab"]],
            r"more than one handler: a\.py, b\.py",
        ),
    ],
)
def test_what_is_not_clear_is_asked(folder, prepare, reason):
    prepare(folder)
    with pytest.raises(BuildError, match=reason):
        start(folder)
    assert not (folder / "torchmar.yaml").exists()


def test_wrong_arguments(folder):
    with pytest.raises(BuildError, match="'video' is no kind"):
        start(folder, kind="video")
    with pytest.raises(BuildError, match="is not a directory"):
        start(folder / "no")
