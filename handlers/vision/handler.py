"""The base of the handlers for images."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from handlers.base import BaseHandler
from handlers.batch.inputs import numbers_to_tensor, require
from handlers.batch.prepared import is_computed
from handlers.errors import BadInputError, LoadError, NotSupportedError
from handlers.loading.labels import class_index
from handlers.vision import decoding
from handlers.vision.encoded_image import WANTED, read_image
from handlers.vision.to_tensor import ending_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image as PILImage

    from handlers.batch.request import RequestContext
    from handlers.context import Context


class VisionHandler(BaseHandler):
    """A handler that reads the image of each request; a subclass answers in `postprocess` or `postprocess_one`.

    Set these in a subclass or on an instance:

    `image_processing` turns a PIL image into a tensor, by default the whole image, `[channels, height, width]` from 0
    to 1. `image_mode` is the PIL mode to which images are converted first; None means RGB for a default processing, and
    for another one the image as it was decoded. `apply_exif_orientation` first rotates photographs as their EXIF data
    says; `handler: {apply_exif_orientation: true}` in model-config.yaml takes precedence. By default the pixels are
    taken as they are stored, as TorchServe's handlers do.
    """

    image_mode: str | None = None
    image_processing: Any = decoding.whole_picture
    apply_exif_orientation: bool = False

    _first_half = (*BaseHandler._first_half, "_read", "_process")

    def initialize(self, context: Context) -> None:
        """Load the model, and lift PIL's limit of pixels if the server's `limit_max_image_pixels` is false.

        Raises:
            LoadError: the model cannot be loaded, or a setting of the section `handler` is wrong.
        """
        super().initialize(context)
        _ = self.image_processing, decoding.readable_formats()  # imports that the first request would wait for
        given = self._handler_config().get("apply_exif_orientation", self.apply_exif_orientation)
        if not isinstance(given, bool):
            raise LoadError(f"handler.apply_exif_orientation in model-config.yaml is {given!r}, and not true or false")
        self.apply_exif_orientation = given
        if context.system_properties.get("limit_max_image_pixels", True) is False:
            from PIL import Image

            Image.MAX_IMAGE_PIXELS = None

    def preprocess_one(self, data: Any, context: RequestContext) -> Any:
        """Turn an image into the model's input, `[channels, height, width]`.

        The request holds an image: its bytes, or the same in base64, as text, a data URL, or JSON with the key `data`.
        A JSON list of numbers, alone or as `data`, is taken as it is.

        Raises:
            BadInputError: the request holds none of these.
        """
        found = self._read(data, context)
        return found if isinstance(found, torch.Tensor) else self._process(found)

    def _read(self, data: Any, context: RequestContext) -> PILImage.Image | torch.Tensor:
        if isinstance(data, torch.Tensor):
            return data.float()
        require(data, context.parameters, "an image")
        kind = context.headers.get("content-type", "")
        found = read_image(data, form=kind.lower().startswith("application/x-www-form-urlencoded"))
        if not isinstance(found, list):
            return found
        if not found:
            raise BadInputError(f"the list is empty: send {WANTED}")
        return numbers_to_tensor(found)

    def _process(self, image: PILImage.Image) -> Any:
        return self.image_processing(self._converted(image))

    def _converted(self, image: PILImage.Image) -> PILImage.Image:
        mode = self.image_mode
        if mode is None and decoding.is_default(self.image_processing):
            mode = "RGB"
        if self.apply_exif_orientation:
            image = decoding.upright(image)
        return decoding.convert(image, mode) if mode else image

    def _halves_of_preprocess(self) -> tuple[Callable[[Any, RequestContext], Any], Callable[[list[Any]], Any]]:
        """Move the end of a processing that ends as torchvision's do to the batch, unless a hook is overridden."""
        ending = ending_of(self.image_processing) if self._has_sdk_hooks() else None
        if ending is None:
            return super()._halves_of_preprocess()

        def read(data: Any, context: RequestContext) -> Any:
            found = self._read(data, context)
            return found if isinstance(found, torch.Tensor) else ending.begin(self._converted(found))

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
        """Captum's integrated gradients for the model.

        Raises:
            NotSupportedError: the package captum is missing.
        """
        try:
            from captum.attr import IntegratedGradients
        except ImportError as error:
            raise NotSupportedError("explanations need the package captum, which the server lacks") from error
        return IntegratedGradients(self.model)
