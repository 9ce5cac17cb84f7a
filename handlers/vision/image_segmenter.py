"""The handler for image segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from handlers.errors import NotSupportedError
from handlers.vision import decoding
from handlers.vision.handler import VisionHandler

if TYPE_CHECKING:
    from collections.abc import Mapping


class ImageSegmenter(VisionHandler):
    """A handler that segments images: an image in, the most probable class of every pixel with its probability out.

    The model is one of torchvision's segmentation models, or has the same inputs and outputs: a tensor `[batch, 3,
    height, width]` in, and `{"out": [batch, classes, height, width]}` before softmax out, or that tensor alone.

    A request is an image: `curl localhost:8080/predictions/segmenter -T street.jpg`. The reply is a list of rows of
    pixels, each a class index, as a number with a fraction, and its probability; for an image of 2 x 2 pixels:

    `[[[0.0, 0.98], [15.0, 0.71]], [[0.0, 0.99], [15.0, 0.86]]]`

    Set `image_processing` in a subclass or on an instance: by default as for ImageNet, the middle 224 x 224 pixels
    after scaling to 256, so the reply has 224 rows of 224 pixels. `image_mode` is as for every image handler.
    """

    image_processing: Any = decoding.imagenet_processing

    def postprocess(self, data: Mapping[str, torch.Tensor] | torch.Tensor) -> list[Any]:
        """Turn the model's output into nested lists `[height, width, 2]` for each request: class and probability."""
        scores = data if isinstance(data, torch.Tensor) else data["out"]
        probabilities, classes = functional.softmax(scores, dim=1).max(dim=1)
        pixels: list[Any] = torch.stack([classes.to(probabilities.dtype), probabilities], dim=3).tolist()
        return pixels

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> list[Any]:  # noqa: ARG002
        """Refuse to explain: integrated gradients need one number for each class.

        Raises:
            NotSupportedError: always.
        """
        raise NotSupportedError(f"{type(self).__name__} does not explain its predictions")
