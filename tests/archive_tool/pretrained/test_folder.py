"""Folders of `save_pretrained`: what goes along, what is missing, and what is refused."""

from pathlib import Path

import pytest

from archive_tool.errors import BuildError
from archive_tool.metadata.record import Pretrained, Record, TensorSpec
from archive_tool.pretrained.folder import is_one, read

from .conftest import safetensors, write
from .test_sentences import module

IMAGES = {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
CODE = {"auto_map": {"AutoConfig": "net.Config", "AutoModelForSequenceClassification": "net.Model"}}


def told(found):
    return [str(one) for one in found.problems]


def test_what_goes_along_and_what_stays(saved):
    left = dict.fromkeys(("trainer_state.json", "requirements.txt", ".gitattributes", "notes.pdf", "run.py"), "x")
    weights = dict.fromkeys(("pytorch_model.bin", "optimizer.pt", "onnx/model.onnx", "checkpoint-1/config.json"), b"x")
    more = {"vocab.txt": "x", "generation_config.json": {}, "LICENSE": "x", "chat_templates/tool.jinja": "x"}
    found = read(saved(files=left | weights | more))
    assert found.problems == ()
    assert set(found.files) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        *more,
    }
    assert (found.task, found.handler) == ("text-classification", "pretrained_text_classifier")
    assert not found.remote_code


def test_the_record(saved):
    folder = saved()
    found = read(folder)
    record = found.record(Record())
    assert record.licence == "apache-2.0"
    assert record.pretrained == Pretrained(
        "pretrained", "text-classification", "BertForSequenceClassification", ("some/base",)
    )
    assert record.outputs == (TensorSpec("logits", "float32", (None, 2)),)
    assert found.record(Record(licence="MIT", inputs=(TensorSpec("x"),))).licence == "MIT"
    assert found.extra_files[0].endswith("=pretrained/README.md")


def test_another_task_is_asked_for(saved):
    assert read(saved(), asked="embeddings").task == "feature-extraction"


def test_no_architecture(saved):
    folder = saved(architectures=None)
    with pytest.raises(BuildError, match="names no architecture") as caught:
        read(folder)
    assert "--task" in caught.value.hint
    assert read(folder, asked="fill-mask").architecture == ""
    assert read(folder, asked="fill-mask").record(Record()).pretrained.architecture is None


def test_missing_parts_are_named_together(saved):
    folder = saved()
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).unlink()
    weights, tokenizer = told(read(folder))
    assert "the weights are missing" in weights
    assert "the tokenizer is missing, which text-classification needs" in tokenizer


@pytest.mark.parametrize(
    "names",
    [
        ("vocab.txt", "bpe.codes"),
        ("vocab.json", "merges.txt"),
        ("spiece.model",),
        ("tokenizer.model",),
        ("sentencepiece.model",),
        ("spm_char.model",),
        ("prophetnet.tokenizer",),
        ("byte_maps.json",),
        ("vocab-src.json", "vocab-tgt.json", "merges.txt"),
    ],
)
def test_tokenizers_of_other_forms(saved, names):
    folder = saved(files=dict.fromkeys(names, "x"))
    (folder / "tokenizer.json").unlink()
    found = read(folder)
    assert told(found) == []
    assert {*names} < {*found.files}


def test_tokenizers_without_a_vocabulary(saved):
    folder = saved(files={"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}})
    (folder / "tokenizer.json").unlink()
    assert told(read(folder)) == []
    # Code of the folder's own knows which files it reads.
    own = {"auto_map": {"AutoTokenizer": ["net.Tokenizer", None]}}
    write(folder, {"tokenizer_config.json": own, "net.py": "", "words.tiktoken": "x"})
    assert told(read(folder, trust_remote_code=True)) == []


@pytest.mark.parametrize("odd", [["ByT5Tokenizer"], {}, 3, None])
def test_a_tokenizer_without_a_vocabulary_that_is_not_named(saved, odd):
    folder = saved(files={"tokenizer_config.json": {"tokenizer_class": odd}})
    (folder / "tokenizer.json").unlink()
    assert "the tokenizer is missing" in told(read(folder))[0]


def test_images_need_their_processor(saved):
    folder = saved(**IMAGES)
    assert "the image processor is missing" in told(read(folder))[0]
    write(folder, {"preprocessor_config.json": {}})
    assert told(read(folder)) == []


def test_speech_needs_both(saved):
    folder = saved(architectures=["Wav2Vec2ForCTC"])
    (folder / "tokenizer.json").unlink()
    tokenizer, processor = told(read(folder))
    assert "the tokenizer is missing" in tokenizer
    assert "the processor is missing" in processor


@pytest.mark.parametrize("document", ["config.json", "tokenizer_config.json"])
def test_code_is_refused_unless_it_is_trusted(saved, document):
    files = {"net.py": "", "parts/layer.py": "", "__pycache__/x.py": ""}
    folder = saved(files=files)
    if document == "config.json":
        folder = saved(files=files, **CODE)
    else:
        write(folder, {document: {"auto_map": {"AutoTokenizer": [None, "net.Tokenizer"]}}})
    (problem,) = told(read(folder))
    assert "needs code of its own, net." in problem
    assert "--trust-remote-code" in problem
    found = read(folder, trust_remote_code=True)
    assert told(found) == []
    assert found.remote_code
    assert found.record(Record()).pretrained.remote_code
    assert {"net.py", "parts/layer.py"} <= set(found.files)
    assert "__pycache__/x.py" not in found.files


def test_code_without_need_for_it_stays_behind(saved):
    found = read(saved(files={"train.py": ""}), trust_remote_code=True)
    assert not found.remote_code
    assert "train.py" not in found.files


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("other/net--net.Model", "another repository's"),
        ("absent.Model", "there is no absent.py"),
        ("../up.Model", "there is no ../up.py"),
    ],
)
def test_code_from_elsewhere(saved, reference, said):
    folder = saved(auto_map={"AutoModel": reference})
    (problem,) = told(read(folder, trust_remote_code=True))
    assert said in problem


def sentences(saved, inner=""):
    listed = [module("Transformer", inner), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")]
    return saved(
        architectures=["BertModel"],
        files={
            "modules.json": listed,
            "config_sentence_transformers.json": {},
            "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
            "openvino/openvino_model.xml": "x",
        },
    )


def test_sentence_transformers(saved):
    found = read(sentences(saved))
    assert found.problems == ()
    assert found.task == "feature-extraction"
    assert {"modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"} < set(found.files)
    assert not any(name.startswith("openvino") for name in found.files)


def test_sentence_transformers_with_the_model_in_a_folder(saved):
    folder = sentences(saved, "0_Transformer")
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    write(folder, {"2_Dense/model.safetensors": safetensors(), "2_Dense/config.json": {}})
    listed = [module("Transformer", "0_Transformer"), module("Pooling", "1_Pooling"), module("Dense", "2_Dense")]
    write(folder, {"modules.json": listed})
    found = read(folder)
    assert found.problems == ()
    assert {"0_Transformer/config.json", "0_Transformer/model.safetensors", "2_Dense/model.safetensors"} < set(
        found.files
    )
    assert "README.md" in found.files


def test_what_is_no_such_folder(work, saved):
    for path, said in (
        (work / "absent", "does not exist\n.*\n  hint: give the folder that .*wrote$"),
        (work / "h.py", "is no folder"),
        (
            write(work / "net", {"config.json": {}, "x.bin": b""}) / "x.bin",
            "is no folder\n.*\n  hint: give its folder: ",
        ),
        (work, f"config.json is missing in .*\n.*\n  hint: give the folder that holds it, such as {work}/net$"),
        (write(work / "llama", {"q4.gguf": b"x"}), "those of another framework: q4.gguf"),
        (work / "llama" / "q4.gguf", "those of another framework: q4.gguf"),
        (write(work / "sd", {"model_index.json": {}, "unet/config.json": {}}), "a pipeline of diffusers"),
        (write(work / "hub", {"snapshots/1/config.json": {}}), "such as .*/hub/snapshots/1$"),
    ):
        with pytest.raises(BuildError, match=said):
            read(path)
        assert not is_one(path)
    write(work / "lora", {"adapter_config.json": {"base_model_name_or_path": "some/base"}})
    with pytest.raises(BuildError, match="an adapter of some/base"):
        read(work / "lora")
    assert is_one(work / "lora")
    write(work / "lora", {"model.safetensors": safetensors()})
    with pytest.raises(BuildError, match="is missing in"):
        read(work / "lora")
    assert is_one(saved())


@pytest.mark.parametrize("name", ["bert-base-uncased", "google-bert/bert-base-uncased"])
def test_a_name_of_the_hub_is_no_folder(work, monkeypatch, name):
    monkeypatch.chdir(work)
    with pytest.raises(BuildError, match=f"hf download {name} --local-dir bert-base-uncased$"):
        read(Path(name))


def test_a_snapshot_in_the_cache_of_the_hub(saved):
    """Its files are links to others, beside it."""
    folder = saved()
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for path in [*folder.iterdir()]:
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert told(read(folder)) == []


def test_an_odd_card_is_a_warning(saved):
    (warning,) = read(saved(files={"README.md": "---\na: [\n---\n"})).warnings
    assert "the head of the model card is not YAML" in str(warning)
