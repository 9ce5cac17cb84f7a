"""The digit classifier of the MNIST tutorials: two convolutions, two fully connected layers.

The names of the layers are the tutorials' own, so that weights trained there load here.
"""

import torch
from torch import nn
from torch.nn import functional


class MNISTNet(nn.Module):
    """A classifier of handwritten digits.

    Input: float32 `[batch, 1, 28, 28]`, normalized with mean 0.1307 and deviation 0.3081 (white ink is high).
    Output: float32 `[batch, 10]`, the log-probabilities of the digits 0 to 9.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(64 * 12 * 12, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities, `[batch, 10]`, of images `[batch, 1, 28, 28]`."""
        x = functional.relu(self.conv1(images))
        x = functional.relu(self.conv2(x))
        x = self.dropout1(functional.max_pool2d(x, 2))
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        return functional.log_softmax(self.fc2(self.dropout2(x)), dim=1)
