"""The mode of an archive that writes texts: what its config file says, where nobody has chosen."""

import json

import pytest
import yaml

import archive_tool
from archive_tool.errors import BuildError
from archive_tool.pretrained import mode

CONTINUOUS = {"continuousBatching": True, "batchSize": 32, "maxBatchDelay": 1}


@pytest.fixture
def built(saved, work):
    """Build an archive of a model that writes; return its handler, and the config file's name and text."""

    def run(text=None, task=None):
        folder = saved(architectures=["GPT2LMHeadModel"], model_type="gpt2")
        config = work / "settings.yaml" if text is not None else None
        if config is not None:
            config.write_text(text)
        return build(folder, work / "store", config, task)

    return run


def build(folder, store, config, task):
    found = archive_tool.build(
        model_name="m",
        pretrained=folder,
        export_path=store,
        archive_format="no-archive",
        task=task,
        config_file=config,
        force=True,
    )
    manifest = json.loads((found.path / "MAR-INF" / "MANIFEST.json").read_text())["model"]
    name = manifest.get("configFile")
    return manifest["handler"], name, (found.path / name).read_text() if name else None


def test_without_a_config_file(built):
    handler, name, text = built()
    assert (handler, name, yaml.safe_load(text)) == ("pretrained_text_generator", "model-config.yaml", CONTINUOUS)
    assert built(task="feature-extraction")[1] is None


def test_a_config_file_keeps_what_it_says(built):
    handler, name, text = built("# mine\nbatchSize: 4\nhandler: {top_k: 3}\n")
    assert (handler, name) == ("pretrained_text_generator", "settings.yaml")
    assert text.startswith("# mine\nbatchSize: 4\nhandler: {top_k: 3}\n")
    assert yaml.safe_load(text) == {**CONTINUOUS, "batchSize": 4, "handler": {"top_k": 3}}


@pytest.mark.parametrize("text", ["continuousBatching: false\n", "useJobTicket: true\n"])
def test_who_has_chosen_a_mode(built, text):
    assert built(text)[2] == text


def test_vllm(built):
    handler, _, text = built("handler: {engine: vllm}\n")
    assert handler == "pretrained_vllm_generator"
    expected = {"asyncCommunication": True, "parallelType": "custom", "batchSize": 1, "handler": {"engine": "vllm"}}
    assert yaml.safe_load(text) == expected


def test_engines_that_there_are_not(built):
    with pytest.raises(BuildError, match=r"handler\.engine is 'tgi'") as caught:
        built("handler: {engine: tgi}\n")
    assert caught.value.hint == "write transformers or vllm"
    with pytest.raises(BuildError, match="vllm runs models for text-generation, and this one is for feature-ex"):
        built("handler: {engine: vllm}\n", task="feature-extraction")


def test_a_config_file_that_is_none(built):
    with pytest.raises(BuildError, match="YAML"):
        built("a: [\n")
    assert mode.engine_of("[1]") == "transformers"
