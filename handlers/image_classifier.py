"""The handler for models that name what is in a picture."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from handlers import vision
from handlers.base import BaseHandler
from handlers.errors import BadInputError, NotSupportedError
from handlers.inputs import is_empty, numbers_to_tensor, row_value
from handlers.labels import map_class_to_label
from handlers.prepared import is_computed

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from handlers.context import Context


class _ImageNetProcessing:
    """The class attribute `image_processing` of those who set none; made when it is first read, for torchvision
    takes long to import.
    """

    def __init__(self) -> None:
        self.made: Any = None

    def __get__(self, instance: object, owner: type) -> Any:
        if self.made is None:
            from torchvision import transforms

            self.made = transforms.Compose(
                [
                    transforms.Resize(256),
                    transforms.CenterCrop(224),
                    transforms.ToTensor(),
                    transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
                ]
            )
        return self.made


_imagenet_processing = _ImageNetProcessing()


class ImageClassifier(BaseHandler):
    """Classify pictures: a picture in, the most probable labels with their probabilities out.

    Set these in a subclass or on an instance:

    `image_processing` turns a PIL picture into a tensor, by default as for ImageNet: the middle 224 x 224 pixels after
    scaling to 256. `image_mode` is the mode of PIL's that pictures are converted to before; None means RGB for the
    default processing, and for another one the picture as it was decoded. `topk` is the number of labels.
    """

    topk: int = 5
    image_mode: str | None = None
    image_processing: Any = _imagenet_processing

    _first_half = (*BaseHandler._first_half, "_read", "_read_text", "_process")

    def initialize(self, context: Context) -> None:
        """Load the model, and lift PIL's limit of pixels if the server's `limit_max_image_pixels` is false."""
        super().initialize(context)
        _ = self.image_processing, vision.readable_formats()  # imports that the first request would wait for
        if context.system_properties.get("limit_max_image_pixels", True) is False:
            from PIL import Image

            Image.MAX_IMAGE_PIXELS = None

    def preprocess(self, data: Any) -> torch.Tensor:
        """Turn requests into the model's input, `[batch, channels, height, width]`.

        Each request holds a picture (bytes, or base64 text), or a JSON list of numbers that is taken as it is.
        """
        return torch.stack([self._read(row_value(row)) for row in data]).to(self.device)

    def _read(self, value: Any) -> Any:
        if is_empty(value):
            raise BadInputError("the request has no body: send a picture")
        if isinstance(value, str):
            return self._read_text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._process(vision.decode_image(value))
        if isinstance(value, torch.Tensor):
            return value.float()
        if not isinstance(value, list):
            raise BadInputError(f"the body is {type(value).__name__}: send a picture, base64 or a list of numbers")
        if not value:
            raise BadInputError("the list is empty: send a picture, base64 or a list of numbers")
        return numbers_to_tensor(value)

    def _read_text(self, text: str) -> Any:
        content = vision.decode_base64(text)
        try:
            return self._process(vision.decode_image(content))
        except BadInputError as error:
            raise BadInputError(f"the body is a text, and read as base64: {error}") from error

    def _process(self, image: PILImage.Image) -> Any:
        mode = self.image_mode
        if mode is None and self.image_processing is _imagenet_processing.made:
            mode = "RGB"
        return self.image_processing(vision.convert(image, mode) if mode else image)

    def _keeps_no_batch(self) -> bool:
        return super()._keeps_no_batch() and not is_computed(self, "image_processing")

    def postprocess(self, data: Any) -> list[Any]:
        """Turn the model's output, `[batch, classes]` before softmax, into a dict of label to probability a request."""
        probabilities = functional.softmax(data, dim=1)
        best, classes = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return map_class_to_label(best.tolist(), self.mapping, classes.tolist())

    def set_max_result_classes(self, topk: int) -> None:
        """Set the number of labels that a reply holds."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """Give the number of labels that a reply holds."""
        return self.topk

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> list[Any]:  # noqa: ARG002
        """Attribute the probability of one class to the pixels, by integrated gradients, in the input's own shape."""
        attributions: torch.Tensor = self.ig.attribute(tensor_data, target=_class_index(target), n_steps=15)
        return attributions.tolist()

    @cached_property
    def ig(self) -> Any:
        """Captum's integrated gradients for the model."""
        try:
            from captum.attr import IntegratedGradients
        except ImportError as error:
            raise NotSupportedError("explanations need the package captum, which the server lacks") from error
        return IntegratedGradients(self.model)


def _class_index(target: Any) -> int:
    try:
        return int(target.decode() if isinstance(target, bytes | bytearray) else target)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"the target {target!r} is not the index of a class") from error
