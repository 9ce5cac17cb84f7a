"""What the handlers for pictures have in common: pictures in."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from handlers import vision
from handlers.base import BaseHandler
from handlers.errors import BadInputError, NotSupportedError
from handlers.inputs import is_empty, numbers_to_tensor
from handlers.labels import class_index
from handlers.picture_batch import ending_of
from handlers.prepared import is_computed

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image as PILImage

    from handlers.context import Context
    from handlers.request import RequestContext


class VisionHandler(BaseHandler):
    """Read the picture of each request; a subclass says in `postprocess` or `postprocess_one` what to answer.

    Set these in a subclass or on an instance:

    `image_processing` turns a PIL picture into a tensor, by default all of it, `[channels, height, width]` from 0 to 1.
    `image_mode` is the mode of PIL's that pictures are converted to before; None means RGB for a default processing,
    and for another one the picture as it was decoded.
    """

    image_mode: str | None = None
    image_processing: Any = vision.whole_picture

    _first_half = (*BaseHandler._first_half, "_read_text", "_process")

    def initialize(self, context: Context) -> None:
        """Load the model, and lift PIL's limit of pixels if the server's `limit_max_image_pixels` is false."""
        super().initialize(context)
        _ = self.image_processing, vision.readable_formats()  # imports that the first request would wait for
        if context.system_properties.get("limit_max_image_pixels", True) is False:
            from PIL import Image

            Image.MAX_IMAGE_PIXELS = None

    def preprocess_one(self, data: Any, context: RequestContext) -> Any:  # noqa: ARG002
        """Turn a picture into the model's input, `[channels, height, width]`.

        The request holds a picture (bytes, or base64 text), or a JSON list of numbers that is taken as it is.
        """
        if is_empty(data):
            raise BadInputError("the request has no body: send a picture")
        if isinstance(data, str):
            return self._read_text(data)
        if isinstance(data, bytes | bytearray | memoryview):
            return self._process(vision.decode_image(data))
        if isinstance(data, torch.Tensor):
            return data.float()
        if not isinstance(data, list):
            raise BadInputError(f"the body is {type(data).__name__}: send a picture, base64 or a list of numbers")
        if not data:
            raise BadInputError("the list is empty: send a picture, base64 or a list of numbers")
        return numbers_to_tensor(data)

    def _read_text(self, text: str) -> Any:
        content = vision.decode_base64(text)
        try:
            return self._process(vision.decode_image(content))
        except BadInputError as error:
            raise BadInputError(f"the body is a text, and read as base64: {error}") from error

    def _process(self, image: PILImage.Image) -> Any:
        return self.image_processing(self._converted(image))

    def _converted(self, image: PILImage.Image) -> PILImage.Image:
        mode = self.image_mode
        if mode is None and vision.is_default(self.image_processing):
            mode = "RGB"
        return vision.convert(image, mode) if mode else image

    def _halves_of_preprocess(self) -> tuple[Callable[[Any, RequestContext], Any], Callable[[list[Any]], Any]]:
        """With a processing that ends as torchvision's do, its end is for the batch, unless a hook is another's."""
        ending = ending_of(self.image_processing) if self._has_sdk_hooks() else None
        if ending is None:
            return super()._halves_of_preprocess()

        def read(data: Any, context: RequestContext) -> Any:
            if isinstance(data, bytes | bytearray | memoryview) and len(data):
                return ending.begin(self._converted(vision.decode_image(data)))
            return self.preprocess_one(data, context)

        def join(items: list[Any]) -> Any:
            batch = ending.finish(items)
            return batch.to(self.device) if isinstance(batch, torch.Tensor) else self.collate(batch)

        return read, join

    def _has_sdk_hooks(self) -> bool:
        hooks = {"preprocess_one": VisionHandler, "_process": VisionHandler, "collate": BaseHandler}
        return all(getattr(getattr(self, name), "__func__", None) is getattr(hooks[name], name) for name in hooks)

    def _keeps_no_batch(self) -> bool:
        return super()._keeps_no_batch() and not is_computed(self, "image_processing")

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> list[Any]:  # noqa: ARG002
        """Attribute the probability of one class to the pixels, by integrated gradients, in the input's own shape."""
        attributions: torch.Tensor = self.ig.attribute(tensor_data, target=class_index(target), n_steps=15)
        return attributions.tolist()

    @cached_property
    def ig(self) -> Any:
        """Captum's integrated gradients for the model."""
        try:
            from captum.attr import IntegratedGradients
        except ImportError as error:
            raise NotSupportedError("explanations need the package captum, which the server lacks") from error
        return IntegratedGradients(self.model)
