"""The handlers for pretrained models of images: what is on one, and where."""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from handlers.errors import BadInputError
from handlers.pretrained import asking, loading
from handlers.pretrained.asking import Asked, Parameter, Piece
from handlers.pretrained.handler import PretrainedHandler
from handlers.pretrained.text_classification import FUNCTIONS, ranked, scores_of
from handlers.vision import decoding
from handlers.vision.encoded_image import read_image

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from handlers.batch.request import RequestContext
    from handlers.context import Context


class PretrainedImageHandler(PretrainedHandler):
    """A handler for a model that looks at an image; a subclass says what its outputs mean.

    A request is an image: its bytes, or the same in base64, as `{"inputs": "<base64>"}` or `{"data": "<base64>"}`.
    """

    wanted = 'an image, or {"inputs": "<base64>"}'

    def __init__(self) -> None:
        super().__init__()
        self.processor: Any = None

    def load_inputs(self, saved: loading.Saved) -> None:
        """Load the image processor."""
        self.processor = loading.load_image_processor(saved)

    def initialize(self, context: Context) -> None:
        """Load the model, and lift PIL's limit of pixels if the server's `limit_max_image_pixels` is false."""
        super().initialize(context)
        decoding.readable_formats()  # imports that the first request would wait for
        if context.system_properties.get("limit_max_image_pixels", True) is False:
            from PIL import Image

            Image.MAX_IMAGE_PIXELS = None

    def read(self, data: Any, context: RequestContext) -> Asked:
        """Read a request; a list is several images, and never one of numbers."""
        if isinstance(data, Mapping) and "inputs" not in data and ("data" in data or "body" in data):
            data = {"inputs": data.get("data") or data.get("body"), "parameters": data.get("parameters")}
        return super().read(data, context)

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:  # noqa: ARG002
        """Make the model's input of an image."""
        image = read_image(value)
        if isinstance(image, list):
            raise BadInputError(f"the body is a list of numbers: send {self.wanted}")
        image = decoding.convert(image, "RGB")
        found = self.processor(images=[image], return_tensors="pt")
        pixels = found["pixel_values"][0]  # the model's first argument; some also take a mask
        others = {name: one[0] for name, one in found.items() if isinstance(one, torch.Tensor)}
        return [Piece({"pixel_values": pixels, **others}, pixels.shape[-1] * pixels.shape[-2], image)]

    def alike(self, piece: Piece) -> Hashable:
        """Return the size of the image: an answer does not depend on the rest of the batch."""
        return tuple(piece.features["pixel_values"].shape)

    def whole(self, output: Any, pieces: list[Piece]) -> list[Any]:
        """Return the model's whole output for each image, as the processor takes it: a batch of one."""
        tensors = {
            name: one.float().cpu() if one.is_floating_point() else one.cpu()
            for name, one in output.items()
            if isinstance(one, torch.Tensor) and one.dim() and len(one) == len(pieces)
        }
        kind = type(output)
        return [kind(**{name: one[i : i + 1] for name, one in tensors.items()}) for i in range(len(pieces))]


class PretrainedImageClassifier(PretrainedImageHandler):
    """A handler that classifies images: an image in, the most probable labels out.

    `curl localhost:8080/predictions/animals -T cat.jpg` replies with `top_k` labels (5), the best first:

    `[{"label": "cat", "score": 0.7}, {"label": "dog", "score": 0.3}]`
    """

    task = "image-classification"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "top_k": asking.count(5, unlimited=True),
        "function_to_apply": asking.choice(None, *FUNCTIONS),
    }

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return labels and scores."""
        scores = scores_of(pieces[0].output, parameters["function_to_apply"], self.model.config)
        return ranked(scores, self.labels, parameters["top_k"])


class PretrainedObjectDetector(PretrainedImageHandler):
    """A handler that finds objects on images: an image in, labels, scores and boxes out.

    The reply has all objects whose score is above `threshold` (0.5), with boxes in pixels:

    `[{"score": 0.9, "label": "cat", "box": {"xmin": 10, "ymin": 20, "xmax": 200, "ymax": 180}}]`
    """

    task = "object-detection"
    parameters: ClassVar[Mapping[str, Parameter]] = {"threshold": asking.share(0.5)}

    def take(self, output: Any, pieces: list[Piece]) -> list[Any]:
        """Return the whole output for each image."""
        return self.whole(output, pieces)

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return what is on the image, and where."""
        image: PILImage.Image = pieces[0].about
        (found,) = self.processor.post_process_object_detection(
            pieces[0].output, threshold=parameters["threshold"], target_sizes=[(image.height, image.width)]
        )
        objects = zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].int().tolist(), strict=True)
        return [
            {
                "score": score,
                "label": self.labels.get(label, f"LABEL_{label}"),
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
            }
            for score, label, box in objects
        ]


class PretrainedImageSegmenter(PretrainedImageHandler):
    """A handler that says what each pixel of an image belongs to: an image in, masks with labels out.

    Each mask is a PNG of the image's size in base64, white where the label is:

    `[{"score": 0.99, "label": "cat", "mask": "iVBORw0KGgo..."}]`

    `subtask` is `panoptic`, `instance` or `semantic`; without one, the first of these that the model does. The scores
    of `semantic` are null. `threshold`, `mask_threshold` and `overlap_mask_area_threshold` are those of transformers.
    """

    task = "image-segmentation"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "subtask": asking.choice(None, "panoptic", "instance", "semantic"),
        "threshold": asking.share(0.9),
        "mask_threshold": asking.share(0.5),
        "overlap_mask_area_threshold": asking.share(0.5),
    }

    def model_class(self, saved: loading.Saved) -> str:
        """Return the class for what the architecture's name says that it does."""
        name = saved.architecture or ""
        kinds = ("Semantic", "Universal", "Instance")
        kind = next((kind for kind in kinds if f"For{kind}Segmentation" in name), "Image")
        return f"AutoModelFor{kind}Segmentation"

    def take(self, output: Any, pieces: list[Piece]) -> list[Any]:
        """Return the whole output for each image."""
        return self.whole(output, pieces)

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return labels and masks."""
        image, output = pieces[0].about, pieces[0].output
        sizes = [(image.height, image.width)]
        asked = parameters["subtask"]
        for subtask in ("panoptic", "instance"):
            process = getattr(self.processor, f"post_process_{subtask}_segmentation", None)
            if process is not None and asked in (subtask, None):
                limits = {name: parameters[name] for name in self.parameters if name.endswith("threshold")}
                (found,) = process(output, target_sizes=sizes, **limits)
                return [
                    self._part(found["segmentation"] == one["id"], one["label_id"], one["score"])
                    for one in found["segments_info"]
                ]
        process = getattr(self.processor, "post_process_semantic_segmentation", None)
        if process is None or asked not in ("semantic", None):
            raise BadInputError(f"the model has no subtask {asked}")
        (classes,) = process(output, target_sizes=sizes)
        return [self._part(classes == label, label, None) for label in classes.unique().tolist()]

    def _part(self, mask: torch.Tensor, label: int, score: float | None) -> dict[str, Any]:
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray((mask.cpu() * 255).to(torch.uint8).numpy()).save(stream, "PNG")
        name = self.labels.get(label, f"LABEL_{label}")
        return {"score": score, "label": name, "mask": base64.b64encode(stream.getvalue()).decode()}
