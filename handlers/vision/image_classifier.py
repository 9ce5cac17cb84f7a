"""The handler for image classification."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from handlers.loading.labels import map_class_to_label
from handlers.vision import decoding
from handlers.vision.handler import VisionHandler


class ImageClassifier(VisionHandler):
    """A handler that classifies images: an image in, the most probable labels with their probabilities out.

    Set these in a subclass or on an instance:

    `image_processing` turns a PIL image into a tensor, by default as for ImageNet: the middle 224 x 224 pixels after
    scaling to 256. `image_mode` is the PIL mode to which images are converted first; None means RGB for the default
    processing, and for another one the image as it was decoded. `topk` is the number of labels.
    """

    names_classes = True
    topk: int = 5
    image_processing: Any = decoding.imagenet_processing

    def postprocess(self, data: Any) -> list[Any]:
        """Turn the model's output, `[batch, classes]` before softmax, into a dict of label to probability a request."""
        probabilities = functional.softmax(data, dim=1)
        best, classes = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return map_class_to_label(best.tolist(), self.mapping, classes.tolist())

    def set_max_result_classes(self, topk: int) -> None:
        """Set the number of labels in a reply."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """Return the number of labels in a reply."""
        return self.topk
