"""Loading a saved folder: where it is, and what is said of one that cannot be served."""

import builtins
import json
import os

import pytest
import torch
from safetensors import torch as safetensors

import handlers
from handlers.errors import CheckpointMismatchError, LoadError
from handlers.pretrained import loading
from handlers.pretrained.tasks import TASKS
from handlers.testing import FakeContext

from .models import SIZES, make_bert, make_tokenizer, save, transformers


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("net"), make_bert("ForMaskedLM"), make_tokenizer())


def manifest(**record):
    return {"model": {}, "torchmar": {"pretrained": record}} if record else {"model": {}}


def load(folder, kind="PretrainedMaskFiller", **record):
    handler = getattr(handlers, kind)()
    handler.initialize(FakeContext(folder, manifest=manifest(**record)))
    return handler


def test_the_folder_of_the_record(saved):
    found = loading.find(manifest(path=saved.name, task="t", architecture="A", remoteCode=True), saved.parent, "x")
    assert found == loading.Saved(saved.resolve(), "t", "A", True)


@pytest.mark.parametrize("path", ["absent", "..", "/etc"])
def test_a_folder_elsewhere(tmp_path, path):
    with pytest.raises(LoadError, match="is not in the archive"):
        loading.find(manifest(path=path, task="t"), tmp_path, "x")


def test_archives_without_a_record(saved, tmp_path):
    """As torch-model-archiver makes them: the files at the root, or below `pretrained`."""
    assert loading.find(manifest(), saved, "fill-mask") == loading.Saved(saved, "fill-mask")
    assert load(saved).model.config.model_type == "bert"
    (tmp_path / "pretrained").symlink_to(saved)
    assert loading.find(None, tmp_path, "t").folder == tmp_path / "pretrained"


def test_weights_for_another_task(saved):
    with pytest.raises(
        CheckpointMismatchError, match=r"the weights lack what BertForSequenceClassification needs: .*classifier.weight"
    ):
        load(saved, "PretrainedTextClassifier", path=".", task="text-classification", architecture="BertForMaskedLM")
    assert load(saved, "PretrainedEmbedder", path=".", task="feature-extraction").model  # needs no head


def changed(saved, folder, **settings):
    """Copy a folder, with other settings in its config.json."""
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((saved / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_weights_of_fewer_layers_than_the_model_has(saved, tmp_path):
    """transformers fills up with random numbers."""
    record = {"path": ".", "task": "fill-mask", "architecture": "BertForMaskedLM"}
    with pytest.raises(CheckpointMismatchError, match=r"lack what .* needs: bert\.encoder\.layer\.2\..* and 11 more"):
        load(changed(saved, tmp_path, num_hidden_layers=3), **record)


WITHOUT_MLP = {name: size for name, size in SIZES.items() if name != "intermediate_size"}
ROTARY = {"vocab_size": 30, "position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 2}
SWIN = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}


@pytest.mark.parametrize(
    ("task", "architecture", "settings", "lacks"),
    [
        ("fill-mask", "EsmForMaskedLM", SIZES | ROTARY, "inv_freq"),
        ("image-classification", "Dinov2ForImageClassification", WITHOUT_MLP | {"image_size": 28}, "mask_token"),
        # transformers 4 saves these numbers, and 5 does not.
        ("image-classification", "SwinForImageClassification", SWIN, "relative_position_index"),
    ],
)
def test_weights_that_nothing_needs(tmp_path, task, architecture, settings, lacks):
    """What is computed from config.json, or used in training alone, may be left out."""
    model = getattr(transformers, architecture)(
        getattr(transformers, architecture.partition("For")[0] + "Config")(**settings)
    )
    save(tmp_path, model)
    path = tmp_path / "model.safetensors"
    left = {name: tensor for name, tensor in safetensors.load_file(path).items() if lacks not in name}
    safetensors.save_file(left, path, {"format": "pt"})
    found = loading.load_model(loading.Saved(tmp_path, task, architecture), TASKS[task].model, torch.float32)
    states = found.state_dict()
    for name, tensor in model.state_dict().items():
        assert "mask_token" in name or torch.equal(states[name], tensor), name


def test_weights_of_other_sizes_are_named(saved, tmp_path):
    """transformers 5 points to a table in its log, and the older one leaves out the sizes."""
    record = {"path": ".", "task": "fill-mask", "architecture": "BertForMaskedLM"}
    with pytest.raises(CheckpointMismatchError, match=r"do not fit the model's config\.json: .*dense\.bias") as caught:
        load(changed(saved, tmp_path, intermediate_size=48), **record)
    assert "save it again" in caught.value.hint


def test_a_model_of_a_later_version(saved, tmp_path):
    folder = changed(saved, tmp_path, model_type="zamba9", transformers_version="99.1.0")
    with pytest.raises(LoadError, match="zamba9") as caught:
        load(folder, path=".", task="fill-mask", architecture="Zamba9ForMaskedLM")
    here = loading.transformers().__version__
    assert f"with transformers {here}, which is here; the folder was saved with 99.1.0" in caught.value.hint


def test_nothing_is_fetched(saved, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    load(saved)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_library_that_is_missing(saved, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LoadError, match="needs the package transformers") as caught:
        loading.transformers()
    assert "torchmar[transformers]" in caught.value.hint


@pytest.mark.parametrize(("name", "said"), [("tokenizer.json", "the tokenizer"), ("model.safetensors", "the model")])
def test_damaged_files(saved, tmp_path, name, said):
    for path in saved.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if path.name == name else content)
    with pytest.raises(LoadError, match=f"{said} in .* cannot be loaded"):
        load(tmp_path)


def test_code_is_not_run_without_leave(saved, tmp_path):
    code = {"AutoConfig": "net.Config", "AutoModelForMaskedLM": "net.Model"}
    changed(saved, tmp_path, model_type="unheard-of", auto_map=code)
    (tmp_path / "net.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(LoadError, match="cannot be loaded"):
        load(tmp_path)
