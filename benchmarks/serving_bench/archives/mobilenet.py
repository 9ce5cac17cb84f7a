"""torchvision's mobilenet_v3_small; a model file has to define the class itself."""

import torch
from torch import nn
from torchvision import models


class MobileNet(nn.Module):
    """The network. Input: float32 `[batch, 3, 224, 224]`. Output: float32 `[batch, 1000]`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = models.mobilenet_v3_small(weights=None)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the score of each class."""
        scores: torch.Tensor = self.net(images)
        return scores
