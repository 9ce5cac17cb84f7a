"""The SDK for handlers: subclass `BaseHandler`, `ImageClassifier` or `TensorHandler`, override what differs.

An archive carries a copy of this package and so runs on any TorchServe. Names are imported when they are first
used: `import handlers` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.audio.handler import AudioHandler as AudioHandler  # noqa: I001 - one block a module
    from handlers.base import BaseHandler as BaseHandler
    from handlers.batch.request import RequestContext as RequestContext
    from handlers.context import Context as Context
    from handlers.errors import (
        BadInputError as BadInputError,
        CheckpointMismatchError as CheckpointMismatchError,
        LabelMapError as LabelMapError,
        LoadError as LoadError,
        ModelFileError as ModelFileError,
        NotAcceptableError as NotAcceptableError,
        NotSupportedError as NotSupportedError,
        RequestError as RequestError,
        TooLargeError as TooLargeError,
        UnsafeCheckpointError as UnsafeCheckpointError,
        UnsupportedFormatError as UnsupportedFormatError,
        UnsupportedMediaError as UnsupportedMediaError,
    )
    from handlers.pretrained.embedding import PretrainedEmbedder as PretrainedEmbedder
    from handlers.pretrained.fill_mask import PretrainedMaskFiller as PretrainedMaskFiller
    from handlers.pretrained.generation.handler import PretrainedTextGenerator as PretrainedTextGenerator
    from handlers.pretrained.generation.vllm import PretrainedVllmGenerator as PretrainedVllmGenerator
    from handlers.pretrained.handler import (
        PretrainedHandler as PretrainedHandler,
        PretrainedTextHandler as PretrainedTextHandler,
    )
    from handlers.pretrained.images import (
        PretrainedImageClassifier as PretrainedImageClassifier,
        PretrainedImageHandler as PretrainedImageHandler,
        PretrainedImageSegmenter as PretrainedImageSegmenter,
        PretrainedObjectDetector as PretrainedObjectDetector,
    )
    from handlers.pretrained.question_answering import PretrainedQuestionAnswerer as PretrainedQuestionAnswerer
    from handlers.pretrained.rewriting import PretrainedRewriter as PretrainedRewriter
    from handlers.pretrained.speech import PretrainedSpeechRecognizer as PretrainedSpeechRecognizer
    from handlers.pretrained.text_classification import (
        PretrainedTextClassifier as PretrainedTextClassifier,
        PretrainedZeroShotClassifier as PretrainedZeroShotClassifier,
    )
    from handlers.pretrained.token_classification import PretrainedTokenClassifier as PretrainedTokenClassifier
    from handlers.tensors.handler import TensorHandler as TensorHandler
    from handlers.text.handler import TextHandler as TextHandler
    from handlers.text.text_classifier import TextClassifier as TextClassifier
    from handlers.text.text_embedder import TextEmbedder as TextEmbedder
    from handlers.text.text_generator import TextGenerator as TextGenerator
    from handlers.text.token_classifier import TokenClassifier as TokenClassifier
    from handlers.vision.handler import VisionHandler as VisionHandler
    from handlers.vision.image_classifier import ImageClassifier as ImageClassifier
    from handlers.vision.image_segmenter import ImageSegmenter as ImageSegmenter
    from handlers.vision.object_detector import ObjectDetector as ObjectDetector

# The module of each name. `from module import NAME as NAME` above says it once more, to type checkers and editors.
_HOMES = {
    "AudioHandler": "audio.handler",
    "BadInputError": "errors",
    "BaseHandler": "base",
    "CheckpointMismatchError": "errors",
    "Context": "context",
    "ImageClassifier": "vision.image_classifier",
    "ImageSegmenter": "vision.image_segmenter",
    "LabelMapError": "errors",
    "LoadError": "errors",
    "ModelFileError": "errors",
    "NotAcceptableError": "errors",
    "NotSupportedError": "errors",
    "ObjectDetector": "vision.object_detector",
    "PretrainedEmbedder": "pretrained.embedding",
    "PretrainedHandler": "pretrained.handler",
    "PretrainedImageClassifier": "pretrained.images",
    "PretrainedImageHandler": "pretrained.images",
    "PretrainedImageSegmenter": "pretrained.images",
    "PretrainedMaskFiller": "pretrained.fill_mask",
    "PretrainedObjectDetector": "pretrained.images",
    "PretrainedQuestionAnswerer": "pretrained.question_answering",
    "PretrainedRewriter": "pretrained.rewriting",
    "PretrainedSpeechRecognizer": "pretrained.speech",
    "PretrainedTextClassifier": "pretrained.text_classification",
    "PretrainedTextGenerator": "pretrained.generation.handler",
    "PretrainedTextHandler": "pretrained.handler",
    "PretrainedTokenClassifier": "pretrained.token_classification",
    "PretrainedVllmGenerator": "pretrained.generation.vllm",
    "PretrainedZeroShotClassifier": "pretrained.text_classification",
    "RequestContext": "batch.request",
    "RequestError": "errors",
    "TensorHandler": "tensors.handler",
    "TextClassifier": "text.text_classifier",
    "TextEmbedder": "text.text_embedder",
    "TextGenerator": "text.text_generator",
    "TextHandler": "text.handler",
    "TokenClassifier": "text.token_classifier",
    "TooLargeError": "errors",
    "UnsafeCheckpointError": "errors",
    "UnsupportedFormatError": "errors",
    "UnsupportedMediaError": "errors",
    "VisionHandler": "vision.handler",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
