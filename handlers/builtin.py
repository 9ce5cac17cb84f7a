"""The built-in handlers, by the names that stand for them in place of a file. Importing this imports nothing else.

Some are TorchServe's, some the SDK's, and some exist in both. `torchmar build`, `verify`, `optimize` and the worker use
this table.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class BuiltIn(NamedTuple):
    """A built-in handler.

    `sdk` is its class in the package `handlers`; None if only TorchServe has one. `torchserve` says whether TorchServe
    has a handler of the name. `archiver` says whether torch-model-archiver knows the name, for which it copies no file
    even if there is one.
    """

    sdk: str | None = None
    torchserve: bool = True
    archiver: bool = True


BUILT_IN: Final = {
    "audio_handler": BuiltIn("AudioHandler", torchserve=False, archiver=False),
    "base_handler": BuiltIn("BaseHandler"),
    "dali_image_classifier": BuiltIn(),
    "densenet_handler": BuiltIn(archiver=False),
    "image_classifier": BuiltIn("ImageClassifier"),
    "image_segmenter": BuiltIn("ImageSegmenter"),
    "object_detector": BuiltIn("ObjectDetector"),
    "pretrained_embedder": BuiltIn("PretrainedEmbedder", torchserve=False, archiver=False),
    "pretrained_image_classifier": BuiltIn("PretrainedImageClassifier", torchserve=False, archiver=False),
    "pretrained_image_segmenter": BuiltIn("PretrainedImageSegmenter", torchserve=False, archiver=False),
    "pretrained_mask_filler": BuiltIn("PretrainedMaskFiller", torchserve=False, archiver=False),
    "pretrained_object_detector": BuiltIn("PretrainedObjectDetector", torchserve=False, archiver=False),
    "pretrained_question_answerer": BuiltIn("PretrainedQuestionAnswerer", torchserve=False, archiver=False),
    "pretrained_rewriter": BuiltIn("PretrainedRewriter", torchserve=False, archiver=False),
    "pretrained_speech_recognizer": BuiltIn("PretrainedSpeechRecognizer", torchserve=False, archiver=False),
    "pretrained_text_classifier": BuiltIn("PretrainedTextClassifier", torchserve=False, archiver=False),
    "pretrained_text_generator": BuiltIn("PretrainedTextGenerator", torchserve=False, archiver=False),
    "pretrained_token_classifier": BuiltIn("PretrainedTokenClassifier", torchserve=False, archiver=False),
    "pretrained_vllm_generator": BuiltIn("PretrainedVllmGenerator", torchserve=False, archiver=False),
    "pretrained_zero_shot_classifier": BuiltIn("PretrainedZeroShotClassifier", torchserve=False, archiver=False),
    "tensor_handler": BuiltIn("TensorHandler", torchserve=False, archiver=False),
    "text_classifier": BuiltIn("TextClassifier"),
    "text_embedder": BuiltIn("TextEmbedder", torchserve=False, archiver=False),
    "text_generator": BuiltIn("TextGenerator", torchserve=False, archiver=False),
    "token_classifier": BuiltIn("TokenClassifier", torchserve=False, archiver=False),
    "trt_llm_handler": BuiltIn(),
    "vllm_handler": BuiltIn(),
}
#: Names for which torch-model-archiver copies no file.
STOCK_HANDLERS: Final = frozenset(name for name, one in BUILT_IN.items() if one.archiver)
#: Names that TorchServe serves without a file.
TORCHSERVE_HANDLERS: Final = frozenset(name for name, one in BUILT_IN.items() if one.torchserve)
#: Name to the SDK's class, where TorchServe has none. The archive gets a file of this name with a class derived from
#: it, and so runs without torchmar.
SDK_HANDLERS: Final = {name: one.sdk for name, one in BUILT_IN.items() if one.sdk is not None and not one.torchserve}
#: Name to the SDK's class with which torchmar's worker serves a handler of TorchServe.
TWINS: Final = {name: one.sdk for name, one in BUILT_IN.items() if one.sdk is not None and one.torchserve}
