"""torchvision's resnet18; a model file has to define the class itself."""

from torchvision.models import resnet


class ResNet18(resnet.ResNet):  # type: ignore[misc]  # torchvision has no types
    """The network. Input: float32 `[batch, 3, 224, 224]`. Output: float32 `[batch, 1000]`."""

    def __init__(self) -> None:
        super().__init__(resnet.BasicBlock, [2, 2, 2, 2])
