"""efficientnet-lite0 behind a handler that normalises images as for torchvision's networks."""

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


class Lite0(nn.Module):
    """The network. Input: float32 `[batch, 3, 224, 224]`. Output: float32 `[batch, 1000]`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = EfficientNet.from_name("efficientnet-lite0")
        # From torchvision's normalisation to (x - 0.498) / 0.502, with which the network was trained.
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("scale", (deviation / 0.502).reshape(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - 0.498) / 0.502).reshape(3, 1, 1), persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Classify images."""
        scores: torch.Tensor = self.net(pictures * self.scale + self.shift)
        return scores
