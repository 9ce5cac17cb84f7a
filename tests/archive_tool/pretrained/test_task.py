"""The task of a model: asked for, or shown by its files."""

import pytest

from archive_tool.errors import BuildError
from archive_tool.pretrained.documents import Card
from archive_tool.pretrained.task import find, given, judges_hypotheses, labels_of
from handlers.builtin import SDK_HANDLERS
from handlers.pretrained.tasks import TASKS, task_of

NLI = {"id2label": {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"}}


@pytest.mark.parametrize(
    ("architecture", "config", "task"),
    [
        ("BertForSequenceClassification", {}, "text-classification"),
        ("BartForSequenceClassification", NLI, "zero-shot-classification"),
        ("DistilBertForTokenClassification", {}, "token-classification"),
        ("RobertaForQuestionAnswering", {}, "question-answering"),
        ("BertForMaskedLM", {}, "fill-mask"),
        ("FlaubertWithLMHeadModel", {}, "fill-mask"),
        ("BertModel", {}, "feature-extraction"),
        ("GPT2LMHeadModel", {}, "text-generation"),
        ("LlamaForCausalLM", {}, "text-generation"),
        ("ViTForImageClassification", {}, "image-classification"),
        ("DetrForObjectDetection", {}, "object-detection"),
        ("SegformerForSemanticSegmentation", {}, "image-segmentation"),
        ("DetrForSegmentation", {}, "image-segmentation"),
        ("Mask2FormerForUniversalSegmentation", {}, "image-segmentation"),
        ("Wav2Vec2ForCTC", {}, "automatic-speech-recognition"),
        ("WhisperForConditionalGeneration", {"model_type": "whisper"}, "automatic-speech-recognition"),
        ("T5ForConditionalGeneration", {"model_type": "t5"}, "text2text-generation"),
        ("EncoderDecoderModel", {"model_type": "encoder-decoder"}, "text2text-generation"),
        ("MarianMTModel", {"model_type": "marian"}, "translation"),
        ("PegasusForConditionalGeneration", {"model_type": "pegasus"}, "summarization"),
        (
            "BartForConditionalGeneration",
            {"model_type": "bart", "task_specific_params": {"summarization": {}}},
            "summarization",
        ),
    ],
)
def test_architectures(architecture, config, task):
    assert find(config, architecture, Card(), "config.json") == task


@pytest.mark.parametrize("tag", ["summarization", "translation"])
def test_a_card_says_what_a_model_rewrites_to(tag):
    assert find({"model_type": "t5"}, "T5ForConditionalGeneration", Card(task=tag), "config.json") == tag


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("BertForMultipleChoice", {}),
        ("CLIPModel", {"vision_config": {}}),
        ("LlavaForConditionalGeneration", {"model_type": "llava"}),
        ("VisionEncoderDecoderModel", {}),
        ("SpeechEncoderDecoderModel", {}),
        ("Nothing", {}),
    ],
)
def test_unknown_ones_are_named_with_what_is_served(architecture, config):
    with pytest.raises(BuildError, match=architecture) as caught:
        find(config, architecture, Card(), "net/config.json")
    assert caught.value.where == "net/config.json"
    assert "text-classification" in caught.value.hint


def test_tasks_by_name():
    assert given("fill-mask") == "fill-mask"
    assert given("ner") == "token-classification"
    assert given("sentence-similarity") == "feature-extraction"
    with pytest.raises(BuildError, match="'chess' is no task") as caught:
        given("chess")
    assert "question-answering" in caught.value.hint


def test_labels():
    assert labels_of({"id2label": {"0": "a", "1": 7}}) == ["a", "7"]
    assert labels_of({"id2label": ["a"]}) == []
    assert judges_hypotheses(NLI)
    assert not judges_hypotheses({"id2label": {"0": "entailment", "1": "other"}})


def test_every_task_has_a_built_in_handler():
    assert {task.handler for task in TASKS.values() if task.handler} <= SDK_HANDLERS.keys()
    assert all(task_of(f"Any{end}", "") == name for name, task in TASKS.items() for end in task.endings)
