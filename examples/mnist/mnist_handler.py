"""The digit in an image: PNG, JPEG or another format in, a digit from 0 to 9 out."""

from __future__ import annotations

import torch
from torchvision import transforms

from handlers import ImageClassifier


class MNISTDigitClassifier(ImageClassifier):
    """White ink on black, as in MNIST; a coloured image is made grey, another size than 28 x 28 resized."""

    image_mode = "L"
    image_processing = transforms.Compose(
        [
            transforms.Resize((28, 28)),
            transforms.ToTensor(),
            transforms.Normalize((0.1307,), (0.3081,)),
        ]
    )

    def postprocess(self, data: torch.Tensor) -> list[int]:
        """Turn the model's output, `[batch, 10]`, into one digit for each image."""
        return data.argmax(1).tolist()
