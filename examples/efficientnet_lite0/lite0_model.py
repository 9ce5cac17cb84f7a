"""EfficientNet-Lite0 for ImageNet: images `[batch, 3, 224, 224]` in, scores of 1000 classes `[batch, 1000]` out."""

from efficientnet_lite_pytorch import EfficientNet, get_model_params


class Lite0(EfficientNet):
    """The network of the package efficientnet_lite_pytorch, which travels in the archive, created without arguments."""

    def __init__(self):
        super().__init__(*get_model_params("efficientnet-lite0", None))
