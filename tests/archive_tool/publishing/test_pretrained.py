"""Live models of transformers: saved, archived, and proved."""

import json

import pytest

import archive_tool
from archive_tool.errors import BuildError, InputError
from archive_tool.publishing import pretrained, proof
from tests.handlers.pretrained.models import make_bert, make_tokenizer, make_writer


@pytest.fixture
def classifier():
    return make_bert("ForSequenceClassification", num_labels=3).train()


def test_a_model_with_its_tokenizer(classifier, store):
    told = []
    published = archive_tool.publish(
        classifier, name="mood", model_store=store, tokenizer=make_tokenizer(), progress=told.append
    )
    assert (published.name, published.version, published.format) == ("mood", "1.0", "pretrained")
    assert [path.name for path in store.iterdir()] == ["mood-1.0.mar"]
    assert classifier.training
    assert classifier.config.use_cache is not False or "use_cache" not in classifier.config.to_dict()
    assert len(told) == 4
    with archive_tool.open_archive(published.path) as archive:
        record = archive.manifest.record
        expected = json.loads(archive.read(record.samples[0].expected, 1 << 20))
    assert record.pretrained.task == "text-classification"
    assert sorted(one["label"] for one in expected) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert published.inputs[0].name == "input_ids"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokenizer": object()}, "tokenizer is object, which has no save_pretrained"),
        ({"tokenizer": "own", "x_test": [1]}, "x_test is about a model of tensors"),
        ({"tokenizer": "own", "task": "chess"}, "is no task"),
        ({"tokenizer": "own", "example": {"inputs": ""}}, "the live model answers the example with 400"),
        ({"processor": "own"}, "which has no save_pretrained"),
    ],
)
def test_what_cannot_be_published(classifier, store, options, said):
    given = {
        key: make_tokenizer() if key == "tokenizer" and value == "own" else value for key, value in options.items()
    }
    with pytest.raises(BuildError, match=said):
        archive_tool.publish(classifier, name="mood", model_store=store, quiet=True, **given)
    assert not list(store.iterdir())


class Unsaved:
    """What takes long to save."""

    def save_pretrained(self, folder):
        pytest.fail("it is saved before its options are looked at")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tolerance": -1.0}, "a number from 0 up, not -1.0"),
        ({"tolerance": float("nan")}, "a number from 0 up, not nan"),
        ({"version": "1.0"}, "mood-1.0.mar exists already"),
        ({"task": "chess"}, "is no task"),
        ({"processor": object()}, "processor is object, which has no save_pretrained"),
        ({"config_file": "no_such.yaml"}, "no_such.yaml does not exist"),
        ({"config_file": "broken.yaml"}, "is not YAML"),
        ({"requirements_file": "no_such.txt"}, "no_such.txt does not exist"),
    ],
)
def test_what_shows_at_once_is_refused_before_a_file_is_written(
    classifier, store, tmp_path, monkeypatch, options, said
):
    (store / "mood-1.0.mar").touch()
    (tmp_path / "broken.yaml").write_text("a: [1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(type(classifier), "save_pretrained", Unsaved.save_pretrained)
    with pytest.raises(InputError, match=said):
        archive_tool.publish(classifier, name="mood", model_store=store, tokenizer=Unsaved(), quiet=True, **options)
    assert [one.name for one in store.iterdir()] == ["mood-1.0.mar"]


def test_another_answer_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(proof, "replies", lambda *_: [(200, [{"label": "a", "score": 0.5}])])
    with pytest.raises(BuildError, match="does not answer as the live one does"):
        pretrained.prove(tmp_path, "h", "{}", [{"label": "a", "score": 0.7}], tolerance=1e-3)
    pretrained.prove(tmp_path, "h", "{}", [{"label": "a", "score": 0.5001}], tolerance=1e-3)
    monkeypatch.setattr(proof, "replies", lambda *_: [(413, {"message": "too long"})])
    with pytest.raises(BuildError, match="with 413"):
        pretrained.prove(tmp_path, "h", "{}", [], tolerance=0)


@pytest.mark.parametrize(
    "task", ["question-answering", "zero-shot-classification", "image-classification", "automatic-speech-recognition"]
)
def test_every_task_has_an_example(task):
    example = pretrained.example_of(task, {"tokenizer": None})
    assert json.loads(json.dumps(example)) == example


def test_an_example_with_a_gap():
    assert "[MASK]" in pretrained.example_of("fill-mask", {"tokenizer": make_tokenizer()})["inputs"]


@pytest.mark.slow
def test_a_model_that_writes(store):
    """Its example is one that draws nothing, whatever the model's own settings are."""
    model, tokenizer = make_writer()
    model.generation_config.do_sample = True
    published = archive_tool.publish(model, name="writer", model_store=store, tokenizer=tokenizer, quiet=True)
    with archive_tool.open_archive(published.path) as archive:
        assert archive.manifest.model.config_file == "model-config.yaml"
        (found,) = json.loads(archive.read(archive.manifest.record.samples[0].expected, 1 << 20))
    assert found["generated_text"].startswith("The quick brown")
