"""The handler for object detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from handlers.batch.outputs import run_by_shape
from handlers.device import to_device
from handlers.errors import NotSupportedError
from handlers.loading.labels import map_class_to_label
from handlers.optimization.optimized_model import original
from handlers.vision.handler import VisionHandler

if TYPE_CHECKING:
    from handlers.batch.request import RequestContext


class ObjectDetector(VisionHandler):
    """A handler that detects objects: an image in, a list of labels with boxes and scores out.

    The model is one of torchvision's detection models, or has the same inputs and outputs: a tensor `[batch, 3, height,
    width]` from 0 to 1 in, and for each image a dict of tensors out, `boxes` `[n, 4]`, `labels` `[n]` and `scores`
    `[n]`.

    A request is an image: `curl localhost:8080/predictions/detector -T street.jpg`. The reply has every object whose
    score is at least `threshold`, the best first as torchvision's models return them. A box is `[left, top, right,
    bottom]` in pixels of the image:

    `[{"person": [167.4, 57.0, 301.3, 436.7], "score": 0.99}, {"car": [87.6, 85.3, 249.9, 190.5], "score": 0.93}]`

    `threshold` is set in a subclass or on an instance; so are `image_processing` (by default the whole image, from 0 to
    1) and `image_mode`.
    """

    names_classes = True
    threshold: float = 0.5

    def collate(self, items: list[Any]) -> Any:
        """Stack the images to a tensor `[batch, channels, height, width]`; return a list if their sizes differ."""
        if len({item.shape for item in items}) == 1:
            return super().collate(items)
        return items

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the images, on those of one size at a time. Return a dict of tensors for each image.

        Images of several sizes are not padded to one, so an answer does not depend on the rest of the batch.
        """
        if isinstance(data, torch.Tensor):
            return self._detect(data, *args, **kwargs)
        return run_by_shape(data, lambda pictures: self._detect(pictures, *args, **kwargs))

    def _detect(self, pictures: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(original(self.model), torch.jit.ScriptModule):
            return super().inference(pictures, *args, **kwargs)
        # torchvision's models as TorchScript take lists only, and return the training losses, too.
        with torch.inference_mode():
            output = self.model(list(to_device(pictures, self.device)), *args, **kwargs)
        return output[1] if isinstance(output, tuple) else output

    def postprocess_one(self, output: dict[str, torch.Tensor], context: RequestContext) -> Any:  # noqa: ARG002
        """Turn the boxes, labels and scores of one image into a list of `{label: box, "score": score}`."""
        kept = output["scores"] >= self.threshold
        boxes, labels, scores = (output[key][kept].tolist() for key in ("boxes", "labels", "scores"))
        named = map_class_to_label([[box] for box in boxes], self.mapping, [[label] for label in labels])
        return [item | {"score": score} for item, score in zip(named, scores, strict=True)]

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> list[Any]:  # noqa: ARG002
        """Refuse to explain: integrated gradients need one number for each class.

        Raises:
            NotSupportedError: always.
        """
        raise NotSupportedError(f"{type(self).__name__} does not explain its predictions")
