"""The SDK for handlers: subclass `BaseHandler`, `ImageClassifier` or `TensorHandler`, override what differs.

An archive carries a copy of this package and so runs on any TorchServe. Names are imported when they are first
used: `import handlers` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.audio.handler import AudioHandler
    from handlers.base import BaseHandler
    from handlers.batch.request import RequestContext
    from handlers.context import Context
    from handlers.errors import (
        BadInputError,
        CheckpointMismatchError,
        LabelMapError,
        LoadError,
        ModelFileError,
        NotAcceptableError,
        NotSupportedError,
        RequestError,
        TooLargeError,
        UnsafeCheckpointError,
        UnsupportedFormatError,
        UnsupportedMediaError,
    )
    from handlers.tensors.handler import TensorHandler
    from handlers.text.handler import TextHandler
    from handlers.text.text_classifier import TextClassifier
    from handlers.text.text_embedder import TextEmbedder
    from handlers.text.text_generator import TextGenerator
    from handlers.text.token_classifier import TokenClassifier
    from handlers.vision.handler import VisionHandler
    from handlers.vision.image_classifier import ImageClassifier
    from handlers.vision.image_segmenter import ImageSegmenter
    from handlers.vision.object_detector import ObjectDetector

__all__ = [
    "AudioHandler",
    "BadInputError",
    "BaseHandler",
    "CheckpointMismatchError",
    "Context",
    "ImageClassifier",
    "ImageSegmenter",
    "LabelMapError",
    "LoadError",
    "ModelFileError",
    "NotAcceptableError",
    "NotSupportedError",
    "ObjectDetector",
    "RequestContext",
    "RequestError",
    "TensorHandler",
    "TextClassifier",
    "TextEmbedder",
    "TextGenerator",
    "TextHandler",
    "TokenClassifier",
    "TooLargeError",
    "UnsafeCheckpointError",
    "UnsupportedFormatError",
    "UnsupportedMediaError",
    "VisionHandler",
]

_HOMES = {
    "AudioHandler": "audio.handler",
    "BaseHandler": "base",
    "Context": "context",
    "ImageClassifier": "vision.image_classifier",
    "ImageSegmenter": "vision.image_segmenter",
    "ObjectDetector": "vision.object_detector",
    "RequestContext": "batch.request",
    "TensorHandler": "tensors.handler",
    "TextClassifier": "text.text_classifier",
    "TextEmbedder": "text.text_embedder",
    "TextGenerator": "text.text_generator",
    "TextHandler": "text.handler",
    "TokenClassifier": "text.token_classifier",
    "VisionHandler": "vision.handler",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
