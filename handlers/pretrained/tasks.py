"""What pretrained models are for, by the names of the Hugging Face Hub. Importing this imports nothing else.

`torchmar build --pretrained` finds a task in this table, and the handlers what a model of the task is loaded with.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: The folder of the archive that holds the model's.
FOLDER: Final = "pretrained"
#: What sentence-transformers adds to a model's folder, and the modules in it that are served, by their classes' names.
MODULES: Final = "modules.json"
SENTENCE_MODULES: Final = ("Transformer", "Pooling", "Dense", "Normalize")
#: What Dense and Normalize read unless their config.json says otherwise: the vector that pooling made.
SENTENCE_INPUT: Final = "sentence_embedding"
#: What a task's requests are turned into the model's input with.
TOKENIZER: Final = "tokenizer"
IMAGE_PROCESSOR: Final = "image processor"
PROCESSOR: Final = "processor"

#: What runs a model that writes texts, by `handler.engine` of model-config.yaml.
TRANSFORMERS: Final = "transformers"
VLLM: Final = "vllm"
ENGINES: Final = (TRANSFORMERS, VLLM)


class Task(NamedTuple):
    """One task.

    `handler` is the built-in handler that serves it. `model` is the class of transformers that
    loads its models, `endings` are those of their architectures' names. `needs` is what the inputs are made with.
    """

    handler: str
    model: str
    endings: tuple[str, ...] = ()
    needs: str = TOKENIZER


TASKS: Final = {
    "text-classification": Task(
        "pretrained_text_classifier", "AutoModelForSequenceClassification", ("ForSequenceClassification",)
    ),
    "zero-shot-classification": Task("pretrained_zero_shot_classifier", "AutoModelForSequenceClassification"),
    "token-classification": Task(
        "pretrained_token_classifier", "AutoModelForTokenClassification", ("ForTokenClassification",)
    ),
    "question-answering": Task(
        "pretrained_question_answerer", "AutoModelForQuestionAnswering", ("ForQuestionAnswering",)
    ),
    "fill-mask": Task("pretrained_mask_filler", "AutoModelForMaskedLM", ("ForMaskedLM", "WithLMHeadModel")),
    "summarization": Task("pretrained_rewriter", "AutoModelForSeq2SeqLM"),
    "translation": Task("pretrained_rewriter", "AutoModelForSeq2SeqLM"),
    "text2text-generation": Task("pretrained_rewriter", "AutoModelForSeq2SeqLM"),
    "image-classification": Task(
        "pretrained_image_classifier",
        "AutoModelForImageClassification",
        ("ForImageClassification", "ForImageClassificationWithTeacher"),
        IMAGE_PROCESSOR,
    ),
    "object-detection": Task(
        "pretrained_object_detector", "AutoModelForObjectDetection", ("ForObjectDetection",), IMAGE_PROCESSOR
    ),
    "image-segmentation": Task(
        "pretrained_image_segmenter",
        "AutoModelForImageSegmentation",
        ("ForSemanticSegmentation", "ForUniversalSegmentation", "ForInstanceSegmentation", "ForSegmentation"),
        IMAGE_PROCESSOR,
    ),
    "automatic-speech-recognition": Task(
        "pretrained_speech_recognizer", "AutoModelForSpeechSeq2Seq", ("ForCTC", "ForSpeechSeq2Seq"), PROCESSOR
    ),
    "text-generation": Task("pretrained_text_generator", "AutoModelForCausalLM", ("ForCausalLM", "LMHeadModel")),
    # Last: the architecture of a model without a head ends as many others do.
    "feature-extraction": Task("pretrained_embedder", "AutoModel", ("Model",)),
}
#: Other names of tasks.
ALIASES: Final = {
    "embeddings": "feature-extraction",
    "ner": "token-classification",
    "sentence-similarity": "feature-extraction",
    "sentiment-analysis": "text-classification",
    "text-embeddings": "feature-extraction",
}
#: Model types whose `ForConditionalGeneration` takes text, and those that take speech. All others take pictures, or
#: several things at once.
TEXT_TO_TEXT: Final = frozenset(
    {"bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "fsmt", "led", "longt5", "m2m_100", "marian", "mbart"}
    | {
        "mt5",
        "mvp",
        "nllb-moe",
        "pegasus",
        "pegasus_x",
        "plbart",
        "prophetnet",
        "switch_transformers",
        "t5",
        "t5gemma",
        "umt5",
    }
)
SPEECH_TO_TEXT: Final = frozenset({"moonshine", "speech_to_text", "whisper"})


def task_of(architecture: str, model_type: str) -> str | None:
    """Return the task of an architecture, or None if it is none of the table.

    Of those that rewrite texts it is the most general one: what they rewrite them to, the architecture does not say.
    """
    if architecture.endswith(("ForConditionalGeneration", "MarianMTModel")):
        if model_type in TEXT_TO_TEXT:
            return "text2text-generation"
        return "automatic-speech-recognition" if model_type in SPEECH_TO_TEXT else None
    if architecture.endswith("EncoderDecoderModel"):  # two models as one; others of the kind read images, or hear
        return "text2text-generation" if architecture == "EncoderDecoderModel" else None
    return next((name for name, task in TASKS.items() if architecture.endswith(task.endings or ("\0",))), None)
