"""A network that has learned fizz buzz: numbers in, scores of four categories out.

0: the number itself, 1: fizz, 2: buzz, 3: fizzbuzz.
"""

import torch
from torch import nn

BITS = 10  # the network was trained on numbers of no more


class FizbuzNet(nn.Module):
    """The network. Takes numbers from 0, int64 `[batch]`; returns scores, float32 `[batch, 4]`."""

    def __init__(self):
        super().__init__()
        self.bits = BITS  # TorchScript knows attributes, and no variables of the module
        self.layers = nn.Sequential(nn.Linear(BITS, 150), nn.ReLU(), nn.Linear(150, 4))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the scores of each number's categories.

        16 is 1 more than a multiple of 15, so a number and the sum of its hexadecimal digits leave the same remainder,
        and are called the same. How often that is done depends on the numbers: torch.jit.script keeps the loop, a trace
        would keep as many rounds as its example took.
        """
        known = 1 << self.bits
        while bool((numbers >= known).any()):
            numbers = torch.where(numbers >= known, (numbers >> 4) + (numbers & 15), numbers)
        bits = (numbers.unsqueeze(1) >> torch.arange(self.bits, device=numbers.device)) & 1
        return self.layers(bits.float())

    @torch.jit.export
    def say(self, number: int) -> str:
        """Return what a player says at a number."""
        category = int(self.forward(torch.tensor([number])).argmax())
        if category == 0:
            return str(number)
        word = ""
        if category % 2 == 1:
            word += "fizz"
        if category >= 2:
            word += "buzz"
        return word
